"""Answers as text: extract, validate and recognize refusals. Pure functions for producers and workers."""
