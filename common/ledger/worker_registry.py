"""Which workers are there: each says so every few seconds, under a key that vanishes when it falls silent."""

from typing import Any, Literal

import redis

from common.records import Record
from common.redaction import mask_text

_PREFIX = "fleet:worker:"

WorkerState = Literal["loading", "ready", "draining", "stopped"]


class WorkerRecord(Record):
    """One worker as it last spoke.

    ``device`` names its slot, such as ``gpu0``, and ``gpu`` the hardware there, where that is known.  ``holds`` lists
    (run_id, chunk).  ``samples_per_s`` and ``tokens_per_s`` (of the answers) are over its last 30 s, ``None`` before its first
    answer.  ``trouble`` is what keeps it from working, for a person.
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
    """Say that a worker is there, for ``ttl_s`` seconds; secrets in its trouble are masked."""
    presence = presence.model_copy(update={"trouble": presence.trouble and mask_text(presence.trouble)})
    client.set(_PREFIX + presence.worker, presence.model_dump_json(), px=int(ttl_s * 1000))


def withdraw_worker(client: redis.Redis, worker: str) -> None:
    client.delete(_PREFIX + worker)


def list_workers(client: redis.Redis, model: str | None = None) -> list[WorkerRecord]:
    """Return the workers of a model, or of all, that are there, by name."""
    keys: Any = sorted(client.scan_iter(match=_PREFIX + "*", count=1000))
    spoken: Any = client.mget(keys) if keys else []
    present = [WorkerRecord.model_validate_json(text) for text in spoken if text]
    return [presence for presence in present if model in (None, presence.model)]
