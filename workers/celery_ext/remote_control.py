"""Celery's remote control without the commands that change a worker.

A remote command could stop or slow down a worker's consumer. The worker would then be listed as ready while its runs do not
progress. The launcher starts, drains and stops workers. Remote control only inspects them, as Flower does.
"""

from collections.abc import Callable

from celery.worker.control import Panel

# All other commands are refused, including commands of later Celery versions. ``enable_events`` and ``heartbeat`` make a worker
# send events, which Flower requests. Celery also lists ``hello``, ``memsample``, ``memdump`` and ``objgraph`` as inspections, but
# ``hello`` revokes tasks, and the others keep memory or write files.
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
        return {"error": f"{name} is disabled: start, drain and stop workers with `workers start` and signals"}

    return refuse
