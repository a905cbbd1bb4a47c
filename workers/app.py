"""The Celery app of a worker process: the engine loads in a bootstep before anything is consumed, and drains after.

Started by ``workers start`` (one process a GPU slot), which passes ``FLEET_WORKER_*``; also what Flower looks at:
``celery -A workers.app flower``.
"""

import os
from contextlib import suppress
from typing import Any

import redis
import structlog
from celery import bootsteps
from celery.signals import setup_logging
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.broker.app import make_app
from common.errors import ConfigError, FleetError, ServiceUnreachable
from common.exit_codes import ENGINE_DIED, UNREACHABLE, USER_MUST_ACT
from common.ledger.ledger import Ledger, connect_redis
from common.ledger.worker_registry import WorkerRecord, announce_worker
from common.logging import configure_log
from common.settings import get_settings
from common.spec.files import find_profile, find_weights, read_profile
from common.spec.models import ModelProfile
from common.storage.store import open_store
from workers.adapters import load_adapter
from workers.celery_ext.flower import guard_flower
from workers.celery_ext.signals import handle_signals
from workers.engines.registry import load_engine
from workers.execution.look import look
from workers.runtime.worker import Slot

log = structlog.get_logger()


class WorkerSettings(BaseSettings):
    """What the launcher tells the process it starts."""

    model_config = SettingsConfigDict(env_prefix="FLEET_WORKER_", frozen=True)

    profile: str
    device: str = "cpu"
    gpu: str = Field("", description="the hardware, for a person")
    preset: dict[str, Any] = Field({}, description="engine options, under those of the profile")
    launcher: int | None = Field(None, description="the process id of the launcher; once it is gone, the worker drains")
    loaded_pipe: int | None = Field(None, description="the file descriptor to tell on that the engine is loaded")


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Open ledger and store and load the engine before Celery consumes; on the way out, drain before the pool closes."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        handle_signals(_begin_drain)  # Celery has set its own by now
        try:
            _SLOTS.append(make_slot(parent.hostname))
            current_slot().start()
        except (FleetError, redis.RedisError) as error:
            # Celery would log an ordinary exception and exit as if asked to; the launcher must know which kind it was.
            log.error(  # noqa: TRY400  # the message speaks for itself, a traceback would hide it
                "this worker cannot start", code=getattr(error, "code", "service_unreachable"), error=str(error)
            )
            _tell_trouble(parent.hostname, str(error))
            os._exit(_exit_code(error))
        _tell_loaded()
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
    store = open_store(settings.store_url)
    store.probe()
    return Slot(
        name=name,
        device=given.device,
        profile=profile,
        engine=load_engine(_complete(profile, given.preset), find_weights(profile, profile_path=profile_path)),
        adapter=load_adapter(profile.adapter),
        app=app,
        ledger=Ledger(connect_redis(settings, patience_s=60), settings),
        store=store,
        settings=settings,
        look=look,
        gpu=given.gpu or None,
        launcher=given.launcher,
    )


def current_slot() -> Slot:
    """Return the slot of this process; there is one once the engine's bootstep has begun."""
    return _SLOTS[-1]


@setup_logging.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _keep_our_log(**_: Any) -> None:
    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)


def _complete(profile: ModelProfile, preset: dict[str, Any]) -> ModelProfile:
    """Return the profile with the options that the launcher chose, where it sets none itself."""
    return profile.model_copy(update={"engine_options": {**preset, **profile.engine_options}})


def _tell_loaded() -> None:
    """Let the launcher start the next worker on this GPU."""
    if (pipe := WorkerSettings().loaded_pipe) is not None:
        with suppress(OSError):  # the launcher may be gone
            os.write(pipe, b".")
            os.close(pipe)


def _begin_drain(at_once: bool) -> None:
    if not (_SLOTS and current_slot().ready):
        os._exit(0)  # nothing is held yet, and loading may take minutes
    current_slot().drain(at_once=at_once)


def _exit_code(error: Exception) -> int:
    if isinstance(error, ConfigError):
        return USER_MUST_ACT
    return UNREACHABLE if isinstance(error, (ServiceUnreachable, redis.RedisError)) else ENGINE_DIED


def _tell_trouble(worker: str, trouble: str) -> None:
    """Say in Redis why this worker ends, if it can be reached: the launcher adds it to its notice."""
    given, settings = WorkerSettings(), get_settings()
    with suppress(FleetError, redis.RedisError), connect_redis(settings, patience_s=0) as client:
        presence = WorkerRecord(
            worker=worker,
            model=read_profile(given.profile).name,
            device=given.device,
            pid=os.getpid(),
            state="stopped",
            trouble=trouble,
        )
        announce_worker(client, presence, ttl_s=settings.lease_s)


_SLOTS: list[Slot] = []

app = make_app(get_settings())
app.conf.update(include=["workers.execution.task"], worker_consumer="workers.celery_ext.consumer:Consumer")
app.steps["worker"].add(EngineStep)
guard_flower()
