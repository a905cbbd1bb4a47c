"""Reports show an evaluation to people."""
