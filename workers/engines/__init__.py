"""Engines turn requests into generations.  They know no queue and no dataset, and are named by import string."""
