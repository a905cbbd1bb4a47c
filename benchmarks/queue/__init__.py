"""Measure the throughput of the queue without a model."""
