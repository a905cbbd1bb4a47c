"""Run all checks of ``workers check`` concurrently.

The checks end within seconds. They write only a probe object to the store.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from common.settings import Settings
from workers.doctor.finding import Finding
from workers.doctor.machine import check_disk, check_gpus, check_versions
from workers.doctor.model import check_model
from workers.doctor.services import check_redis, check_store


def check_node(pairs: Sequence[tuple[str | None, str | None]], settings: Settings, *, replicas: int = 1) -> list[Finding]:
    """Return the findings about services, GPUs, versions and disks, and about the weights, engine and preset of each model.

    ``pairs`` are profiles with their ``--gpus``. The profile is ``None`` if the user did not set ``--model``. The GPUs are
    ``None`` if the user did not request GPUs. A machine without GPUs is then not a problem.
    """
    models = [model for model, _ in pairs if model is not None]
    sections: list[Callable[[], list[Finding]]] = [
        partial(check_redis, settings),
        partial(check_store, settings),
        partial(check_gpus, pairs, replicas),
        partial(check_versions, pairs),
        *(partial(check_model, model) for model in models),
        partial(check_disk, settings),
    ]
    with ThreadPoolExecutor(len(sections), "check") as pool:
        started = [pool.submit(section) for section in sections]
        return [finding for section in started for finding in section.result()]
