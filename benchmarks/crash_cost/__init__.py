"""The cost of a crash: rates, engine deaths and run times after kills and poison samples."""
