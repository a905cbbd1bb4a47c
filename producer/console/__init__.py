"""Console: what a terminal shows of a run: status, scores, progress."""
