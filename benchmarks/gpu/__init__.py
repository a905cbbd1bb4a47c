"""Real vLLM on GPUs."""
