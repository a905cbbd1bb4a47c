"""Adapters translate a sample into a prompt, and a generation into a prediction.

They are pure functions of their arguments. Each model family has one file.
"""

from workers.adapters.registry import load_adapter

__all__ = ["load_adapter"]
