"""Console: show the status, scores and progress of a run on a terminal."""
