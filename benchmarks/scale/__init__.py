"""Measure enqueueing of large datasets: rates, peak memory and the size of the plan."""
