"""Planning: shuffle the samples of a run into chunks and write the plan to the store once."""
