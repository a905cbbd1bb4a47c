"""A chunk's way through a worker: the task, the chunk, the sample, the retries and the quarantine."""
