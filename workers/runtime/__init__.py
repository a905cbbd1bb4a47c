"""The state of one worker process: engine, admission, engine lock, chunk leases, throughput and run contexts."""
