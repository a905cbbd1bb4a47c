"""The tiny model: its data, architecture, training and evaluation."""
