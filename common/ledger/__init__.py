"""The ledger: the Redis record of each run's chunks, leases and counts, and of the workers that serve them."""
