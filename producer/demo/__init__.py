"""The demo: the whole flow on one machine, with a Redis server of its own."""
