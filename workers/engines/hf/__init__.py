"""The transformers engine: the request queue, batch formation and the model."""
