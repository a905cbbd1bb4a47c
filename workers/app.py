"""The Celery app of a worker process. A bootstep loads the engine before Celery consumes messages, and drains the worker.

``workers start`` starts one process per GPU slot and passes ``FLEET_WORKER_*``. Flower uses the same app:
``celery -A workers.app flower``.
"""

import os
from contextlib import suppress
from functools import partial
from typing import Any

import redis
import structlog
from celery import Celery, bootsteps
from celery.signals import setup_logging, worker_shutdown
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.broker.app import TASK_NAME, make_app
from common.errors import ConfigError, FleetError, TransientError
from common.exit_codes import ENGINE_DIED, UNREACHABLE, USER_MUST_ACT
from common.ledger.connection import connect_redis, reaching_redis
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import WorkerRecord, announce_worker
from common.logging import configure_log
from common.program.commands import end_process
from common.settings import Settings, get_settings
from common.spec.files import find_profile, find_weights, read_profile
from common.spec.models import ModelProfile
from common.storage.store import Store
from workers.adapters import load_adapter
from workers.celery_ext.flower import guard_flower
from workers.celery_ext.remote_control import refuse_changes
from workers.celery_ext.signals import handle_signals
from workers.engines.base import Engine
from workers.engines.registry import load_engine
from workers.execution.task import run_task
from workers.media.loader import MediaLoader
from workers.recovery.janitor import Janitor
from workers.recovery.service_wait import open_usable_store, wait_for_service
from workers.recovery.takeover import Takeovers
from workers.runtime.engine_host import EngineHost
from workers.runtime.fingerprint import ModelFingerprint
from workers.runtime.run_context import RunCache
from workers.runtime.worker import Worker

log = structlog.get_logger()

_TROUBLE_S = 30.0  # longer than a probe of an unreachable store, so that `status` shows the trouble without a gap


class WorkerSettings(BaseSettings):
    """The settings that the launcher passes to a worker process."""

    model_config = SettingsConfigDict(env_prefix="FLEET_WORKER_", frozen=True)

    profile: str
    device: str = "cpu"
    gpu: str = Field("", description="the name of the hardware, for users")
    preset: dict[str, Any] = Field({}, description="engine options; the profile's options take precedence")
    launcher: int | None = Field(None, description="the process id of the launcher; the worker drains when it has exited")
    loaded_pipe: int | None = Field(None, description="the file descriptor to write to once the engine is loaded")


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Open the ledger and the store and load the engine before Celery consumes messages. Drain before the pool closes."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        handle_signals(_begin_drain)  # Celery has already installed its own handlers
        try:
            _WORKERS.append(make_worker(parent.hostname))
            current_worker().start()
        except (FleetError, redis.RedisError) as error:
            # Celery would log the exception and shut down normally. The launcher needs an exit code for the kind of error.
            log.error(  # noqa: TRY400  # the message names the cause, a traceback would hide it
                "worker.start_failed", code=getattr(error, "code", "service_unreachable"), error=str(error)
            )
            _announce_end(parent.hostname, str(error))
            os._exit(_exit_code(error))
        _signal_loaded()
        log.info("worker.ready", worker=parent.hostname)

    def stop(self, parent: Any) -> None:
        del parent
        current_worker().stop()

    terminate = stop


def make_worker(name: str) -> Worker:
    """Return this process's worker. Its engine is not loaded yet. Raises ``ConfigError`` or ``ServiceUnreachable``."""
    given = WorkerSettings()
    settings = get_settings()
    profile_path = find_profile(given.profile)
    profile = _complete(read_profile(given.profile), given.preset)
    record = make_record(name, given, profile)
    on_trouble = partial(_announce_waiting, record, given.launcher)
    wait_for_service(partial(_announce_start, record), on_trouble, pause_s=settings.renew_s)
    store = wait_for_service(partial(open_usable_store, settings.store_url), on_trouble, pause_s=settings.renew_s)
    weights = find_weights(profile, profile_path=profile_path)
    return wire_worker(
        record,
        profile,
        load_engine(profile, weights),
        app,
        ledger=Ledger(connect_redis(settings, patience_s=60), settings),
        store=store,
        settings=settings,
        weights=weights,
        launcher=given.launcher,
    )


def make_record(name: str, given: WorkerSettings, profile: ModelProfile) -> WorkerRecord:
    """Return the record of a worker that is starting."""
    return WorkerRecord(
        worker=name, model=profile.name, device=given.device, gpu=given.gpu or None, pid=os.getpid(), state="loading"
    )


def wire_worker(
    record: WorkerRecord,
    profile: ModelProfile,
    engine: Engine,
    celery: Celery,
    *,
    ledger: Ledger,
    store: Store,
    settings: Settings,
    weights: str = "",
    launcher: int | None = None,
) -> Worker:
    """Connect the parts of a worker. Only this function uses all of them."""

    def run_taken_over(run_id: str, chunk: int) -> str:
        return run_task(worker, run_id, chunk, at_once=True)

    media = MediaLoader(settings.media_threads, settings.media_memory_mb * 2**20)
    host = EngineHost(record.worker, engine, load_adapter(profile.adapter), media, stall_s=settings.engine_stall_s)
    fingerprint = ModelFingerprint(profile, weights)
    fingerprint.begin()
    runs = RunCache(store, profile, settings, fingerprint, lambda: host.takes_videos)
    takeovers = Takeovers(ledger, run_taken_over, settings.chunks_in_flight, lambda: worker.engine_lock.is_reserved)
    janitor = Janitor(celery, ledger, takeovers, runs.find_index, profile.name, settings.janitor_s)
    worker = Worker(record, host, runs, takeovers, janitor, ledger=ledger, store=store, settings=settings, launcher=launcher)
    return worker


def current_worker() -> Worker:
    """Return the worker of this process. The engine's bootstep creates it."""
    return _WORKERS[-1]


@setup_logging.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _keep_our_log(**_: Any) -> None:
    settings = get_settings()
    configure_log(settings.log_level, as_json=settings.log_json)


@worker_shutdown.connect  # type: ignore[untyped-decorator]  # as above
def _end(sender: Any, **_: Any) -> None:
    """End this process after Celery has stopped. Otherwise native threads may abort it during interpreter teardown."""
    end_process(sender.exitcode or 0)


def _complete(profile: ModelProfile, preset: dict[str, Any]) -> ModelProfile:
    """Return the profile with the launcher's options added. The profile's own options take precedence."""
    return profile.model_copy(update={"engine_options": {**preset, **profile.engine_options}})


def _signal_loaded() -> None:
    """Let the launcher start the next worker on this GPU."""
    if (pipe := WorkerSettings().loaded_pipe) is not None:
        with suppress(OSError):  # the launcher may have exited
            os.write(pipe, b".")
            os.close(pipe)


def _begin_drain(at_once: bool) -> None:
    if not (_WORKERS and current_worker().ready):
        os._exit(0)  # the worker does not hold chunks yet, and loading may take minutes
    current_worker().leases.drain(at_once=at_once)


def _exit_code(error: Exception) -> int:
    if isinstance(error, ConfigError):
        return USER_MUST_ACT
    return UNREACHABLE if isinstance(error, (TransientError, redis.RedisError)) else ENGINE_DIED


def _announce_end(worker: str, trouble: str) -> None:
    """Write to Redis the reason why this worker ends. The launcher adds the reason to its notice."""
    with suppress(FleetError):  # the profile may be unreadable
        given = WorkerSettings()
        record = make_record(worker, given, read_profile(given.profile))
        _announce(record.model_copy(update={"state": "stopped"}), trouble)


def _announce_start(record: WorkerRecord) -> None:
    """Write the record of a worker that starts. Raises ``ServiceUnreachable`` if Redis does not accept writes now."""
    settings = get_settings()
    with reaching_redis(settings), connect_redis(settings) as client:
        announce_worker(client, record, ttl_s=_TROUBLE_S)


def _announce_waiting(record: WorkerRecord, launcher: int | None, trouble: str) -> None:
    """Announce the service that a starting worker waits for. End this process if its launcher has exited."""
    if launcher not in (None, os.getppid()):
        log.warning("launcher.gone", hint="this worker exits before it has started")
        os._exit(0)
    _announce(record, trouble)


def _announce(record: WorkerRecord, trouble: str) -> None:
    """Write this worker's trouble to Redis, if Redis is reachable."""
    settings = get_settings()
    with suppress(FleetError, redis.RedisError), connect_redis(settings, patience_s=0) as client:
        announce_worker(client, record.model_copy(update={"trouble": trouble}), ttl_s=_TROUBLE_S)


_WORKERS: list[Worker] = []

app = make_app(get_settings())
app.conf.update(worker_consumer="workers.celery_ext.consumer:Consumer")
app.steps["worker"].add(EngineStep)
guard_flower()
refuse_changes()


@app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]  # Celery has no types
def run_chunk_task(run_id: str, chunk: int) -> str:
    """Run a chunk unless it is done, held or unknown. Return the result as text, for the log and Flower."""
    return str(run_task(current_worker(), run_id, chunk))
