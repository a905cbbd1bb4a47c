"""Execution of a chunk in a worker: the task, the chunk, its samples, the retries and the quarantine."""
