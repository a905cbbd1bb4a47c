"""Benchmarks with vLLM on GPUs."""
