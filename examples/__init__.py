"""Examples for a first run: a tiny model with its training code, held-out data, and a run spec for both."""
