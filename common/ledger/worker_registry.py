"""The list of live workers. Each worker refreshes its record every few seconds. Without a refresh, the record expires."""

from typing import Any, Literal

import redis
from pydantic import ValidationError

from common.records import Record
from common.redaction import mask_text

_PREFIX = "fleet:worker:"

WorkerState = Literal["loading", "ready", "draining", "stopped"]


class WorkerRecord(Record):
    """The last record that a worker wrote.

    - ``device`` is the worker's device on the node, such as ``gpu0``, and ``gpu`` is the name of the hardware, if known.
    - ``holds`` lists the chunks that the worker has leased, as (run_id, chunk).
    - ``samples_per_s`` and ``tokens_per_s`` (output tokens) are the rates of the worker's last 30 s. They are ``None`` before its
      first answer.
    - ``trouble`` is a message to the user that states why the worker cannot run chunks.
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
    """Write a worker's record with secrets masked. It expires after ``ttl_s`` seconds."""
    client.set(_PREFIX + presence.worker, _mask_texts(presence).model_dump_json(), px=int(ttl_s * 1000))


def withdraw_worker(client: redis.Redis, worker: str) -> None:
    """Delete a worker's record."""
    client.delete(_PREFIX + worker)


def list_workers(client: redis.Redis, model: str | None = None) -> list[WorkerRecord]:
    """Return the live workers of a model, or of all models, sorted by name."""
    keys: Any = sorted(client.scan_iter(match=_PREFIX + "*", count=1000))
    records: Any = client.mget(keys) if keys else []
    present = [record for text in records if text and (record := _read_record(text))]
    return [presence for presence in present if model in (None, presence.model)]


def _read_record(text: bytes) -> WorkerRecord | None:
    """Return a record, or None for an invalid entry, which another program may have written."""
    try:
        presence = WorkerRecord.model_validate_json(text)
    except ValidationError:
        return None
    return _mask_texts(presence) if presence.worker.isprintable() else None


def _mask_texts(presence: WorkerRecord) -> WorkerRecord:
    """Return the record with secrets masked and texts limited in length.

    Writers and readers both call this, because another program may have written a record. The names of the worker and its
    model stay unchanged, because code compares them.
    """
    texts = {"device": presence.device, "gpu": presence.gpu, "trouble": presence.trouble}
    return presence.model_copy(update={name: text and mask_text(text) for name, text in texts.items()})
