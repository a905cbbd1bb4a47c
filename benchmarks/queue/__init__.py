"""The rate of the queue without a model."""
