"""Benchmark scripts. Each prints a small table. Results are kept in ``benchmarks/results``."""
