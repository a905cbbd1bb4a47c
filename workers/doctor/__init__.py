"""`workers check`: compare what this node has with what a model needs."""
