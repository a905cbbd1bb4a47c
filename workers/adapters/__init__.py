"""Adapters translate, purely: a sample into a request, a generation into a prediction.  One file per model family."""
