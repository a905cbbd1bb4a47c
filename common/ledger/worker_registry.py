"""The list of live workers. Each worker refreshes its record every few seconds; the record expires when the worker is silent."""

from typing import Any, Literal

import redis
from pydantic import ValidationError

from common.records import Record
from common.redaction import mask_text

_PREFIX = "fleet:worker:"

WorkerState = Literal["loading", "ready", "draining", "stopped"]


class WorkerRecord(Record):
    """The last record that a worker wrote.

    ``device`` names its place on the node, such as ``gpu0``, and ``gpu`` the hardware, if known. ``holds`` lists the leased
    chunks as (run_id, chunk). ``samples_per_s`` and ``tokens_per_s`` (output tokens) cover its last 30 s and are ``None``
    before its first answer. ``trouble`` is a message to the user about why it cannot work.
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
    """Write a worker's record, which expires after ``ttl_s`` seconds. Secrets in its texts are masked."""
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
    """Return a record, or None for an entry that no worker wrote: it must not stop commands and launchers."""
    try:
        presence = WorkerRecord.model_validate_json(text)
    except ValidationError:
        return None
    return _mask_texts(presence) if presence.worker.isprintable() else None


def _mask_texts(presence: WorkerRecord) -> WorkerRecord:
    """Return the record with bounded texts. It is done at both ends, because Redis can hold a record of another writer.

    The names of the worker and its model are compared, so they stay as they are.
    """
    texts = {"device": presence.device, "gpu": presence.gpu, "trouble": presence.trouble}
    return presence.model_copy(update={name: text and mask_text(text) for name, text in texts.items()})
