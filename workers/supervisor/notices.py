"""Notices in Redis about workers that the launcher gave up, for ``producer status``."""

from collections.abc import Collection

import redis
import structlog

from common.digests import name_node
from common.errors import FleetError
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.ledger.worker_registry import WorkerRecord, announce_worker, list_workers, withdraw_worker
from common.settings import Settings

log = structlog.get_logger()

_NOTICE_S = 86400.0
_PATIENCE_S = 60  # no caller waits for a notice, so wait for a Redis that is being restarted


def tell_given_up(settings: Settings, notice: WorkerRecord, *, ours: Collection[str] | None) -> None:
    """Let ``producer status`` show for a day why a slot has no worker; never raises.

    ``ours`` names the launcher's workers once all of them have been given up: then, if nobody else's worker of the model is
    there, its open runs are paused with the reason, so that whoever watches them is not left waiting.  What the worker itself
    said last is added to the notice.
    """
    try:
        with connect_redis(settings, patience_s=_PATIENCE_S) as client:
            there = list_workers(client, notice.model)
            notice = _add_last_words(notice, there)
            announce_worker(client, notice, ttl_s=_NOTICE_S)
            if ours is not None and not any(one.state != "stopped" and one.worker not in ours for one in there):
                _pause_runs(Ledger(client, settings), notice)
    except (FleetError, redis.RedisError) as error:
        log.warning(
            "could not tell in Redis that a worker was given up", worker=notice.worker, trouble=notice.trouble, error=str(error)
        )


def withdraw_notices(client: redis.Redis, model: str, devices: Collection[str]) -> None:
    """Forget what earlier launchers of this machine told about the GPUs of the slots that are started now.

    They may have been grouped or shared in another way.  A slot without a GPU is named for its launcher's process, so any such
    slot of the machine and model stands for it.
    """
    taken = {place for device in devices for place in find_places(device)}
    for presence in list_workers(client, model):
        is_here = presence.worker.endswith(f"@{name_node()}")
        if presence.state == "stopped" and is_here and taken & find_places(presence.device):
            withdraw_worker(client, presence.worker)


def find_places(device: str) -> set[str]:
    """Return what a slot's name says of where it runs: for ``gpu1+2.1`` the GPUs 1 and 2, without a GPU the CPU."""
    return {"cpu"} if device.startswith("cpu") else set(device.removeprefix("gpu").partition(".")[0].split("+"))


def _add_last_words(notice: WorkerRecord, there: list[WorkerRecord]) -> WorkerRecord:
    said = next((one.trouble for one in there if (one.worker, one.pid) == (notice.worker, notice.pid)), None)
    trouble = f"{notice.trouble}: {said or 'its log says why'}"
    return notice.model_copy(update={"trouble": trouble})


def _pause_runs(ledger: Ledger, notice: WorkerRecord) -> None:
    for run_id in ledger.list_runs(notice.model):
        reason = (
            f"no worker of {notice.model} is left: {notice.worker} {notice.trouble}. Mend that, start workers, "
            f"then: producer resume {run_id}"
        )
        if ledger.pause_run(run_id, reason):
            log.warning("run paused", run_id=run_id, reason=reason)
