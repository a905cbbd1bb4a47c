"""Celery's remote control without the commands that change a worker.

A worker that was asked to stop consuming, or to consume slowly, would look ready while its runs stand still. The launcher
starts, drains and stops workers; remote control only inspects them, as Flower does.
"""

from collections.abc import Callable

from celery.worker.control import Panel

# All other commands are refused, those of a later Celery too. ``enable_events`` and ``heartbeat`` make a worker send events,
# which Flower asks for. Celery lists ``hello``, ``memsample``, ``memdump`` and ``objgraph`` as inspection as well, but the first
# revokes tasks, and the others keep memory or write files.
INSPECTIONS = frozenset(
    {
        *("active", "active_queues", "clock", "conf", "enable_events", "heartbeat", "ping", "query_task"),
        *("registered", "report", "reserved", "revoked", "scheduled", "stats"),
    }
)


def refuse_changes() -> None:
    """Make this process refuse every remote control command that is not an inspection, under each of its names."""
    inspections = {Panel.data[name] for name in INSPECTIONS if name in Panel.data}
    for name, command in Panel.data.items():
        if command not in inspections:
            Panel.data[name] = _make_refusal(name)


def _make_refusal(name: str) -> Callable[..., dict[str, str]]:
    def refuse(state: object, **arguments: object) -> dict[str, str]:
        del state, arguments
        return {"error": f"{name} is off: start, drain and stop workers with `workers start` and signals"}

    return refuse
