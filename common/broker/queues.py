"""The names of the queues."""


def queue_name(model: str) -> str:
    """Return the queue of a model profile. The model's workers listen only to this queue."""
    return f"fleet.{model}"
