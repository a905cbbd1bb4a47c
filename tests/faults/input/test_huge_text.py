"""A text that exceeds the context fails only its own sample. The worker's memory and its other runs are not affected."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import EngineError, SampleError
from tests.support.engines.requests import TINY, ask_all, make_request, open_engine, run
from tests.support.fleet import Fleet, make_rows
from tests.support.processes import read_memory_bytes
from tests.support.soundness import assert_run_is_sound
from tests.support.workers import enqueue_rows
from workers.engines.base import Generation
from workers.engines.context import check_long_text

HUGE = " the" * 2_200_000  # one token each
MOST_GROWN_BYTES = 300 * 2**20


def test_huge_text_uses_little_memory_without_delaying_others(fleet: Fleet) -> None:
    fleet.write_profile("tiny-hf", engine="hf", weights=TINY, engine_options={"dtype": "float32"})
    fleet.start_workers("tiny-hf")
    fleet.wait_for_end(enqueue_rows(fleet, "tiny-hf", make_rows(20, dataset="first"), generation={"max_tokens": 4}))
    (worker,) = fleet.workers("tiny-hf")
    Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # resets the peak to the current size
    before = read_memory_bytes(worker.pid, "VmHWM")

    huge = [{"id": number, "question": f"{number}{HUGE}", "target": "ok"} for number in range(3)]
    mixed = enqueue_rows(fleet, "tiny-hf", [*huge, *make_rows(5, dataset="near")], generation={"max_tokens": 4})
    other = enqueue_rows(fleet, "tiny-hf", make_rows(60, dataset="other"), generation={"max_tokens": 4})
    statuses = [fleet.wait_for_end(run_id) for run_id in (mixed, other)]

    grown = read_memory_bytes(worker.pid, "VmHWM") - before
    assert [(status.samples.failed, status.samples.ok + status.samples.invalid) for status in statuses] == [(3, 5), (0, 60)]
    failed = [outcome for outcome in assert_run_is_sound(fleet, mixed) if outcome.status == "failed"]
    assert {outcome.error_code for outcome in failed} == {"too_long"}
    assert all("tokens, but the context of the model has 2048; expected" in str(outcome.error_message) for outcome in failed)
    assert grown <= MOST_GROWN_BYTES, f"grew by {grown / 2**20:.0f} MiB"
    assert [found.pid for found in fleet.workers("tiny-hf")] == [worker.pid], "the same worker must still run"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Block every token count of a long text until the event is set."""
    held = threading.Event()

    def wait_and_check(text: str, context_tokens: int, count_tokens: Callable[[str], int]) -> None:
        assert held.wait(60)
        check_long_text(text, context_tokens, count_tokens)

    import workers.engines.hf.model as hf_model  # imported here because it imports torch

    monkeypatch.setattr(hf_model, "check_long_text", wait_and_check)
    return held


def test_others_are_answered_while_huge_text_is_counted(counting: threading.Event) -> None:
    async def ask() -> tuple[list[Generation], list[BaseException | Generation]]:
        async with open_engine("hf", TINY, dtype="float32") as engine:
            huge = [asyncio.ensure_future(engine.generate(make_request(n, text=HUGE))) for n in range(3)]
            await asyncio.sleep(0)
            others = await ask_all(engine, [make_request(number) for number in range(20)])
            assert not any(task.done() for task in huge)
            counting.set()
            return others, await asyncio.gather(*huge, return_exceptions=True)

    others, refused = run(ask())
    assert len(others) == 20
    assert [fault.code for fault in refused if isinstance(fault, SampleError)] == ["too_long"] * 3


def test_stop_fails_huge_texts_that_wait(counting: threading.Event) -> None:
    async def ask() -> list[BaseException | Generation]:
        async with open_engine("hf", TINY, dtype="float32") as engine:
            huge = [asyncio.ensure_future(engine.generate(make_request(n, text=HUGE))) for n in range(4)]
            await asyncio.sleep(0)
            stopping = asyncio.ensure_future(engine.stop())
            await asyncio.sleep(0)
            counting.set()
            await stopping
            return await asyncio.gather(*huge, return_exceptions=True)

    first, *waiting = run(ask())
    assert isinstance(first, SampleError | EngineError)
    assert [type(fault) for fault in waiting] == [EngineError] * 3
