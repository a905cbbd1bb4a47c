"""The registry of running workers, against a real Redis."""

from collections.abc import Iterator

import pytest
import redis

from common.ledger.worker_registry import WorkerRecord, announce_worker, list_workers, withdraw_worker
from tests.support.waiting import wait_until


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def make_record(worker: str, model: str = "tiny") -> WorkerRecord:
    return WorkerRecord(worker=worker, model=model, device="gpu0", pid=7, state="ready", holds=(("tiny-1", 3),))


def test_latest_records_of_model_are_listed_by_name(client: redis.Redis) -> None:
    for record in (make_record("gpu1@b"), make_record("gpu0@a"), make_record("gpu9@a", "other")):
        announce_worker(client, record, ttl_s=60)
    draining = make_record("gpu0@a").model_copy(update={"state": "draining", "holds": ()})
    announce_worker(client, draining, ttl_s=60)
    assert list_workers(client, "tiny") == [draining, make_record("gpu1@b")]
    assert list_workers(client, "nobody") == []


def test_optional_worker_fields_default_to_none(client: redis.Redis) -> None:
    complete = make_record("gpu1@a").model_copy(update={"gpu": "NVIDIA H200", "samples_per_s": 0.0, "tokens_per_s": 12.5})
    for record in (make_record("gpu0@a"), complete):
        announce_worker(client, record, ttl_s=60)
    bare, full = list_workers(client, "tiny")
    assert (bare.gpu, bare.samples_per_s, bare.tokens_per_s) == (None, None, None)
    assert (full.gpu, full.samples_per_s, full.tokens_per_s) == ("NVIDIA H200", 0.0, 12.5)


def test_withdrawn_worker_is_removed_immediately(client: redis.Redis) -> None:
    announce_worker(client, make_record("gpu0@a"), ttl_s=60)
    withdraw_worker(client, "gpu0@a")
    withdraw_worker(client, "never@there")
    assert list_workers(client, "tiny") == []


def test_record_without_heartbeats_expires(client: redis.Redis) -> None:
    announce_worker(client, make_record("gpu0@a"), ttl_s=0.05)
    wait_until(lambda: not list_workers(client, "tiny"), "the key to expire")


def test_secret_in_worker_trouble_is_masked(client: redis.Redis) -> None:
    trouble = "401 for https://me:hunter2@mirror.example/weights"
    announce_worker(client, make_record("gpu0@a").model_copy(update={"trouble": trouble}), ttl_s=60)
    (full,) = list_workers(client, "tiny")
    assert full.trouble == "401 for https://***@mirror.example/weights"


def test_record_of_another_writer_is_bounded(client: redis.Redis) -> None:
    hostile = {"device": "\x1b[2Jcpu", "gpu": "\x9b2J", "trouble": "x" * 60_000}
    for record in (make_record("gpu0@a").model_copy(update=hostile), make_record("gpu1@\x1b]0;b")):
        client.set(f"fleet:worker:{record.worker}", record.model_dump_json())
    (shown,) = list_workers(client, "tiny")
    assert (shown.worker, shown.device, shown.gpu) == ("gpu0@a", r"\x1b[2Jcpu", r"\x9b2J")
    assert len(shown.trouble or "") <= 2000


@pytest.mark.parametrize(
    "entry", [b"", b"5", b"{}", b"\xff", b"[" * 100_000, b'{"worker": "a"}'], ids=lambda entry: repr(entry[:9])
)
def test_invalid_registry_entry_is_skipped(client: redis.Redis, entry: bytes) -> None:
    announce_worker(client, make_record("gpu0@a"), ttl_s=60)
    client.set("fleet:worker:odd", entry)
    client.lpush("fleet:worker:list", entry)
    assert [one.worker for one in list_workers(client)] == ["gpu0@a"]
