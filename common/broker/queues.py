"""The names of the queues."""


def queue_name(model: str) -> str:
    """Return the queue of a model profile.  Its workers listen to this queue only."""
    return f"fleet.{model}"
