"""Celery's remote control without the commands that change a worker.

A worker that was asked to stop consuming, or to consume slowly, would look ready while its runs stand still.  The launcher
starts, drains and stops workers; remote control only inspects them, as Flower does.
"""

from collections.abc import Callable

from celery.worker.control import Panel

# They change only whether events are sent, which Flower needs.
_HARMLESS = frozenset({"enable_events", "disable_events", "heartbeat"})


def refuse_changes() -> None:
    """Make this process refuse every remote control command that changes a worker."""
    for name, command in Panel.meta.items():
        if command.type != "inspect" and name not in _HARMLESS:
            Panel.data[name] = _make_refusal(name)


def _make_refusal(name: str) -> Callable[..., dict[str, str]]:
    def refuse(state: object, **arguments: object) -> dict[str, str]:
        del state, arguments
        return {"error": f"{name} is off: start, drain and stop workers with `workers start` and signals"}

    return refuse
