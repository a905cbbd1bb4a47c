"""Workers that are there, against a real Redis."""

from collections.abc import Iterator

import pytest
import redis

from common.ledger.worker_registry import WorkerRecord, announce_worker, list_workers, withdraw_worker
from tests.support.waiting import wait_until


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def make_presence(worker: str, model: str = "tiny") -> WorkerRecord:
    return WorkerRecord(worker=worker, model=model, device="gpu0", pid=7, state="ready", holds=(("tiny-1", 3),))


def test_workers_of_a_model_are_listed_by_name_as_they_last_spoke(client: redis.Redis) -> None:
    for presence in (make_presence("gpu1@b"), make_presence("gpu0@a"), make_presence("gpu9@a", "other")):
        announce_worker(client, presence, ttl_s=60)
    draining = make_presence("gpu0@a").model_copy(update={"state": "draining", "holds": ()})
    announce_worker(client, draining, ttl_s=60)
    assert list_workers(client, "tiny") == [draining, make_presence("gpu1@b")]
    assert list_workers(client, "nobody") == []


def test_what_a_worker_does_not_know_is_absent(client: redis.Redis) -> None:
    told = make_presence("gpu1@a").model_copy(update={"gpu": "NVIDIA H200", "samples_per_s": 0.0, "tokens_per_s": 12.5})
    for presence in (make_presence("gpu0@a"), told):
        announce_worker(client, presence, ttl_s=60)
    silent, spoken = list_workers(client, "tiny")
    assert (silent.gpu, silent.samples_per_s, silent.tokens_per_s) == (None, None, None)
    assert (spoken.gpu, spoken.samples_per_s, spoken.tokens_per_s) == ("NVIDIA H200", 0.0, 12.5)


def test_a_worker_that_withdraws_is_gone_at_once(client: redis.Redis) -> None:
    announce_worker(client, make_presence("gpu0@a"), ttl_s=60)
    withdraw_worker(client, "gpu0@a")
    withdraw_worker(client, "never@there")
    assert list_workers(client, "tiny") == []


def test_a_worker_that_falls_silent_vanishes(client: redis.Redis) -> None:
    announce_worker(client, make_presence("gpu0@a"), ttl_s=0.05)
    wait_until(lambda: not list_workers(client, "tiny"), "the key to expire")


def test_a_secret_in_what_troubles_a_worker_is_masked(client: redis.Redis) -> None:
    trouble = "401 for https://me:hunter2@mirror.example/weights"
    announce_worker(client, make_presence("gpu0@a").model_copy(update={"trouble": trouble}), ttl_s=60)
    (spoken,) = list_workers(client, "tiny")
    assert spoken.trouble == "401 for https://***@mirror.example/weights"
