"""Results: the outcomes of a run, collected from its parts and written to files."""
