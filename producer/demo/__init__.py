"""The demo: a complete example on one machine, with its own Redis server."""
