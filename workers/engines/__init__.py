"""Engines turn requests into generations.

An engine depends on neither the queue nor the datasets. A profile names its engine by short name or import string.
"""
