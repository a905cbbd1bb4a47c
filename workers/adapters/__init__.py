"""Adapters translate, purely: a sample into a request, a generation into a prediction.  One file per model family."""

from workers.adapters.registry import load_adapter

__all__ = ["load_adapter"]
