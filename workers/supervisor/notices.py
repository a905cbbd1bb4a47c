"""Report exited workers to Redis: their chunks are given back, and ``producer status`` shows workers that were given up."""

from collections.abc import Collection

import redis
import structlog

from common.deaths import DeathCause
from common.digests import name_node
from common.errors import FleetError
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import WorkerRecord, announce_worker, list_workers, withdraw_worker
from common.settings import Settings

log = structlog.get_logger()

_NOTICE_S = 86400.0
_PATIENCE_S = 60  # callers do not wait for a notice, so it can wait for a restart of Redis


def report_exit(settings: Settings, record: WorkerRecord, death: DeathCause, *, gave_up: Collection[str] | None) -> None:
    """Give back the chunks that a worker process still held when it ended. Never raises; a failure is logged.

    Without this report, the leases expire and the ledger does not record why the process ended. If the worker is not started
    again (its record has a ``trouble``), keep a notice for one day, for ``producer status``. The notice includes the last error
    that the worker itself recorded.
    ``gave_up`` names the launcher's workers of this model once all of them were given up, and is ``None`` before. If the
    model then does not have other running workers, pause its open runs with the reason, so that users do not wait for them.
    """
    try:
        with connect_redis(settings, patience_s=_PATIENCE_S) as client:
            ledger = Ledger(client, settings)
            if released := ledger.release_dead(record.model, record.worker, record.pid, death):
                log.info("worker.chunks_released", worker=record.worker, chunks=released, cause=death)
            if record.trouble:
                _publish_notice(ledger, record, gave_up)
    except (FleetError, redis.RedisError) as error:
        log.warning("report.failed", worker=record.worker, trouble=record.trouble, error=str(error))


def _publish_notice(ledger: Ledger, notice: WorkerRecord, gave_up: Collection[str] | None) -> None:
    workers = list_workers(ledger.client, notice.model)
    notice = _add_last_error(notice, workers)
    announce_worker(ledger.client, notice, ttl_s=_NOTICE_S)
    if gave_up is not None and not any(one.state != "stopped" and one.worker not in gave_up for one in workers):
        _pause_runs(ledger, notice)


def withdraw_notices(client: redis.Redis, model: str, devices: Collection[str]) -> None:
    """Delete the notices of earlier launchers of this machine about the GPUs of the slots that start now.

    Notices are matched by GPU and not by slot name, because an earlier launcher may have grouped or shared the GPUs in another
    way. The name of a slot without a GPU contains the process id of its launcher, so all such slots of the machine and model
    match each other.
    """
    started = {place for device in devices for place in find_places(device)}
    for record in list_workers(client, model):
        is_here = record.worker.endswith(f"@{name_node()}")
        if record.state == "stopped" and is_here and started & find_places(record.device):
            withdraw_worker(client, record.worker)


def find_places(device: str) -> set[str]:
    """Return the hardware that a slot's name denotes: ``{"1", "2"}`` for ``gpu1+2.1``, and ``{"cpu"}`` without a GPU."""
    return {"cpu"} if device.startswith("cpu") else set(device.removeprefix("gpu").partition(".")[0].split("+"))


def _add_last_error(notice: WorkerRecord, workers: list[WorkerRecord]) -> WorkerRecord:
    error = next((one.trouble for one in workers if (one.worker, one.pid) == (notice.worker, notice.pid)), None)
    trouble = f"{notice.trouble}: {error or 'see its log for the reason'}"
    return notice.model_copy(update={"trouble": trouble})


def _pause_runs(ledger: Ledger, notice: WorkerRecord) -> None:
    for run_id in ledger.list_runs(notice.model):
        reason = (
            f"no worker of {notice.model} is left: {notice.worker} {notice.trouble}. Fix that, start workers, "
            f"then: producer resume {run_id}"
        )
        if ledger.pause_run(run_id, reason):
            log.warning("run.paused", run_id=run_id, reason=reason)
