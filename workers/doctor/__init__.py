"""`workers check`: what this node has, what a model needs, and what is missing."""
