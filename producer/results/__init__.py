"""Results: collect the outcomes of a run from its parts and write them to files."""
