"""The list of live workers.  Each worker refreshes its record every few seconds; the record expires when the worker is silent."""

from typing import Any, Literal

import redis

from common.records import Record
from common.redaction import mask_text

_PREFIX = "fleet:worker:"

WorkerState = Literal["loading", "ready", "draining", "stopped"]


class WorkerRecord(Record):
    """The last record that a worker wrote.

    ``device`` names its place on the node, such as ``gpu0``, and ``gpu`` the hardware, if known.  ``holds`` lists the leased
    chunks as (run_id, chunk).  ``samples_per_s`` and ``tokens_per_s`` (output tokens) cover its last 30 s and are ``None``
    before its first answer.  ``trouble`` is a message to the user about why it cannot work.
    """

    worker: str
    model: str
    device: str
    gpu: str | None = None
    pid: int
    state: WorkerState
    holds: tuple[tuple[str, int], ...] = ()
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    trouble: str | None = None


def announce_worker(client: redis.Redis, presence: WorkerRecord, *, ttl_s: float) -> None:
    """Write a worker's record, which expires after ``ttl_s`` seconds.  Secrets in its ``trouble`` are masked."""
    client.set(_PREFIX + presence.worker, _mask_trouble(presence).model_dump_json(), px=int(ttl_s * 1000))


def withdraw_worker(client: redis.Redis, worker: str) -> None:
    """Delete a worker's record."""
    client.delete(_PREFIX + worker)


def list_workers(client: redis.Redis, model: str | None = None) -> list[WorkerRecord]:
    """Return the live workers of a model, or of all models, sorted by name."""
    keys: Any = sorted(client.scan_iter(match=_PREFIX + "*", count=1000))
    records: Any = client.mget(keys) if keys else []
    present = [_mask_trouble(WorkerRecord.model_validate_json(text)) for text in records if text]
    return [presence for presence in present if model in (None, presence.model)]


def _mask_trouble(presence: WorkerRecord) -> WorkerRecord:
    """Return the record with a bounded trouble.  It is done at both ends, because Redis can hold a record of another writer."""
    return presence.model_copy(update={"trouble": presence.trouble and mask_text(presence.trouble)})
