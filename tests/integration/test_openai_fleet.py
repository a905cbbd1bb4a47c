"""A real fleet with an HTTP endpoint: outcomes, errors that pause or only delay a run, and outputs without the API key."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.servers.openai_server import CUT, KEY, PAGE, Asked, OpenAIServer, Reply, refuse, say, serve_openai
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

PIXELS = np.random.default_rng(7).integers(0, 256, (31, 47, 3), dtype=np.uint8)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("FLEET_LOG_LEVEL", "DEBUG")  # the HTTP client logs most at this level
    with serve_openai() as started:
        yield started


def enqueue(fleet: Fleet, server: OpenAIServer, rows: list[dict[str, Any]], **options: Any) -> str:
    engine_options = {"base_url": server.url, "concurrency": 8, **options}
    fleet.write_profile("remote", engine="openai", engine_options=engine_options)
    return enqueue_rows(fleet, "remote", rows)


def read_everything(fleet: Fleet) -> bytes:
    """Return all files of the fleet (store, log, Redis' append-only file), and the parts and Redis keys as text."""
    client: Any = fleet.ledger.client
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    parts = [fleet.store.get(key) for key in fleet.store.list_keys() if key.endswith(".parquet")]
    texts = [path.read_bytes() for path in fleet.folder.rglob("*") if path.is_file()]
    texts += [str(pq.ParquetFile(io.BytesIO(part)).read().to_pylist()).encode() for part in parts]
    texts += [str((key, readers[client.type(key)](key))).encode() for key in client.scan_iter(count=1000)]
    return b"\n".join(texts)


def test_endpoint_run_completes_without_storing_the_key(clean_fleet: Fleet, server: OpenAIServer) -> None:
    fleet = clean_fleet
    Image.fromarray(PIXELS).save(fleet.folder / "shown.png")
    odd = [
        {"id": "shown", "question": "what is shown?", "target": "ok", "image": "shown.png"},
        {"id": "refused", "question": "refused?", "target": "ok"},
        {"id": "filtered", "question": "filtered?", "target": "ok"},
    ]
    faults = [refuse(500), CUT, PAGE, refuse(429, headers={"Retry-After": "0.1"})]

    def reply(asked: Asked) -> Reply:
        if "refused?" in asked.text:
            return refuse(400, f"cannot read it; you sent Authorization: Bearer {KEY}")
        if "filtered?" in asked.text:
            return say(None, "content_filter")
        return faults[asked.number] if asked.number < len(faults) else say()

    server.reply = reply
    run_id = enqueue(fleet, server, [*make_rows(37), *odd])
    fleet.start_workers("remote")
    samples = fleet.wait_for_end(run_id).samples
    fleet.stop_workers()

    assert (samples.ok, samples.failed) == (38, 2)
    outcomes = {outcome.index: outcome for outcome in assert_run_is_sound(fleet, run_id)}
    assert (outcomes["0"].prediction, outcomes["0"].prompt_tokens, outcomes["0"].output_tokens) == ("ok", 11, 1)
    failed = {index: (outcome.error_code, outcome.prediction) for index, outcome in outcomes.items() if outcome.status == "failed"}
    assert failed == {"refused": ("engine_rejected", None), "filtered": ("content_filter", None)}
    assert "HTTP 400: cannot read it; you sent Authorization: Bearer ***" in str(outcomes["refused"].error_message)

    (picture,) = next(asked.images for asked in server.asked if "shown?" in asked.text)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), PIXELS)
    assert server.most_at_once <= 8

    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    everything = read_everything(fleet)
    assert run_id.encode() in everything
    assert b"cannot read it" in everything
    for spelling in (KEY.encode(), KEY[3:].encode(), base64.b64encode(KEY.encode())[:-4]):
        assert spelling not in everything


def test_rejected_api_key_pauses_run_and_names_variable(clean_fleet: Fleet, server: OpenAIServer) -> None:
    fleet = clean_fleet
    server.reply = lambda _: refuse(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key")
    run_id = enqueue(fleet, server, make_rows(40))
    fleet.start_workers("remote", log_level="INFO")
    status = fleet.wait_for_end(run_id)
    assert status.state == "paused"
    assert "check the environment variable OPENAI_API_KEY" in str(status.reason)
    assert KEY not in str(status.reason)
    assert (status.samples.failed, status.samples.invalid) == (0, 0)

    server.reply = lambda _: say()
    fleet.run_producer("resume", run_id)
    assert fleet.wait_for_end(run_id).samples.ok == 40
    assert_run_is_sound(fleet, run_id)
    assert "HTTP Request" not in fleet.read_log(), "the log must not have a line for every request"


def test_unavailable_endpoint_delays_run_and_is_reported(clean_fleet: Fleet, server: OpenAIServer) -> None:
    fleet = clean_fleet
    server.reply = lambda _: refuse(503, "back in a minute")
    run_id = enqueue(fleet, server, make_rows(40), timeout_s=0.5, patience_s=1)
    fleet.start_workers("remote")
    (worker,) = fleet.wait_for_workers("remote")
    trouble = wait_until(
        lambda: next((one.trouble for one in fleet.workers("remote") if one.trouble), None), "a worker that reports the error"
    )
    assert "the endpoint has been unavailable for 1 s; last error: HTTP 503: back in a minute" in trouble
    assert fleet.status(run_id).samples.failed == 0

    server.reply = lambda _: say()
    assert fleet.wait_for_end(run_id).samples.ok == 40
    assert [one.pid for one in fleet.workers("remote")] == [worker.pid], "the worker must not count as dead"
    assert_run_is_sound(fleet, run_id)
