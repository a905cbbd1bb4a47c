"""What a newcomer can run: a small model with its training, held-out data and a run of both."""
