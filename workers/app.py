"""The Celery app of a worker process: the engine loads in a bootstep before anything is consumed, and drains after.

Started by ``workers start`` (one process a GPU slot), which passes ``FLEET_WORKER_*``; also what Flower looks at:
``celery -A workers.app flower``.
"""

import os
from typing import Any

import structlog
from celery import bootsteps
from celery.signals import setup_logging, worker_shutting_down
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.broker import make_app
from common.errors import ConfigError, FleetError
from common.ledger import Ledger, connect_redis
from common.log import configure_log
from common.settings import get_settings
from common.spec_files import find_profile, find_weights, read_profile
from common.store import open_store
from workers.adapters import load_adapter
from workers.engines.registry import load_engine
from workers.flower import guard_flower
from workers.look import look
from workers.slot import CANNOT_START, ENGINE_DIED, Slot

log = structlog.get_logger()


class WorkerSettings(BaseSettings):
    """What the launcher tells the process it starts."""

    model_config = SettingsConfigDict(env_prefix="FLEET_WORKER_", frozen=True)

    profile: str
    device: str = "cpu"


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Open ledger and store and load the engine before Celery consumes; on the way out, drain before the pool closes."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        try:
            _SLOTS.append(make_slot(parent.hostname))
            current_slot().start()
        except FleetError as error:
            # Celery would log an ordinary exception and exit as if asked to; the launcher must know which kind it was.
            log.error(  # noqa: TRY400  # the message speaks for itself, a traceback would hide it
                "this worker cannot start", code=error.code, error=str(error)
            )
            os._exit(CANNOT_START if isinstance(error, ConfigError) else ENGINE_DIED)
        log.info("ready", worker=parent.hostname)

    def stop(self, parent: Any) -> None:
        del parent
        current_slot().stop()

    terminate = stop


def make_slot(name: str) -> Slot:
    """Return this process's slot, its engine not loaded yet.  Raises ``ConfigError`` or ``ServiceUnreachable``."""
    given = WorkerSettings()
    settings = get_settings()
    profile_path = find_profile(given.profile)
    profile = read_profile(given.profile)
    store = open_store(settings.store_url, patience_s=60)
    store.probe()
    return Slot(
        name=name,
        device=given.device,
        profile=profile,
        engine=load_engine(profile, find_weights(profile, profile_path=profile_path)),
        adapter=load_adapter(profile.adapter),
        app=app,
        ledger=Ledger(connect_redis(settings, patience_s=60), settings),
        store=store,
        settings=settings,
        look=look,
    )


def current_slot() -> Slot:
    """Return the slot of this process; there is one once the engine's bootstep has begun."""
    return _SLOTS[-1]


@setup_logging.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _keep_our_log(**_: Any) -> None:
    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _begin_drain(how: str = "Warm", **_: Any) -> None:
    if not (_SLOTS and current_slot().ready):
        os._exit(0)  # nothing is held yet, and loading may take minutes
    current_slot().drain(at_once=how != "Warm")


_SLOTS: list[Slot] = []

app = make_app(get_settings())
app.conf.update(include=["workers.tasks"], worker_consumer="workers.consumer:Consumer")
app.steps["worker"].add(EngineStep)
guard_flower()
