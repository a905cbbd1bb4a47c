"""Readers of collections: folders, tars, and datasets of several files. The readers of single tables are in ``readers``."""
