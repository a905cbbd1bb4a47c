"""Scripts that measure; each prints a small table.  Results are kept in ``benchmarks/results``."""
