"""`workers check`: compare this node with the requirements of a model."""
