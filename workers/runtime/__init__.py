"""What one worker process holds: the engine, admission, the engine lock, throughput and the run contexts."""
