"""``workers check``: can this node run?  Looks at everything at once, changes nothing but a probe object, ends within seconds."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from common.settings import Settings
from workers.doctor.finding import Finding
from workers.doctor.machine import check_disk, check_gpus, check_versions
from workers.doctor.model import check_model
from workers.doctor.services import check_redis, check_store


def check_node(asked: Sequence[tuple[str | None, str | None]], settings: Settings, *, replicas: int = 1) -> list[Finding]:
    """Return what was found of services, GPUs, versions, disks and, for each model, its weights, engine and preset.

    ``asked`` are pairs of a profile and its ``--gpus``; without a model ``None``, and ``None`` for GPUs that nobody asked
    for: then their absence is no problem.
    """
    models = [model for model, _ in asked if model is not None]
    sections: list[Callable[[], list[Finding]]] = [
        partial(check_redis, settings),
        partial(check_store, settings),
        partial(check_gpus, asked, replicas),
        partial(check_versions, asked),
        *(partial(check_model, model) for model in models),
        partial(check_disk, settings),
    ]
    with ThreadPoolExecutor(len(sections), "check") as pool:
        started = [pool.submit(section) for section in sections]
        return [finding for section in started for finding in section.result()]
