"""The tiny model: its data, its network, its training and its measure."""
