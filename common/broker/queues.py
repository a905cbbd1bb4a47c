"""The names of the queues."""


def queue_name(model: str) -> str:
    """Return the queue of a model profile. The model's workers consume only this queue."""
    return f"fleet.{model}"
