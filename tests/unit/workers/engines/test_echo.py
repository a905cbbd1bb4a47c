"""The echo engine: answers, delays and faults from its table."""

import asyncio
from pathlib import Path

import pytest

from common.errors import ConfigError, OutOfMemory, SampleError
from tests.support.engines.requests import ask_all, make_profile, make_request, open_engine, run
from workers.engines.base import Generation
from workers.engines.echo import EXIT_CODE, EchoEngine


def test_first_matching_rule_selects_answer_by_attempt() -> None:
    table = [{"match": "^What", "answers": ["no", "yes"]}, {"match": "What", "answers": ["never"]}]

    async def ask() -> list[str]:
        async with open_engine("echo", table=table, default="else") as engine:
            requests = [make_request(text="What?", attempt=attempt) for attempt in (1, 2, 3)]
            return [one.text for one in await ask_all(engine, [*requests, make_request(text="Say What")])]

    assert run(ask()) == ["no", "yes", "yes", "never"]


def test_table_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("rules:\n  - {match: cat, answers: [meow], finish_reason: length}\n", encoding="utf-8")

    async def ask() -> Generation:
        async with open_engine("echo", table=str(path)) as engine:
            return await engine.generate(make_request(text="a cat"))

    generation = run(ask())
    assert (generation.text, generation.finish_reason) == ("meow", "length")


def test_table_faults_are_raised() -> None:
    table = [{"match": "big", "fault": "out_of_memory"}, {"match": "bad", "fault": "error", "delay_s": 0.001}]

    async def ask() -> None:
        async with open_engine("echo", table=table) as engine:
            with pytest.raises(OutOfMemory):
                await engine.generate(make_request(text="big"))
            with pytest.raises(SampleError) as caught:
                await engine.generate(make_request(text="bad"))
            assert caught.value.code == "engine_rejected"

    run(ask())


def test_hang_fault_lasts_until_cancelled() -> None:
    async def ask() -> None:
        async with open_engine("echo", table=[{"match": "", "fault": "hang"}]) as engine:
            task = asyncio.ensure_future(engine.generate(make_request()))
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(ask())


def test_exit_fault_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def record_exit(code: int) -> None:
        raise SystemError(code)

    monkeypatch.setattr("os._exit", record_exit)

    async def ask() -> None:
        async with open_engine("echo", table=[{"match": "", "fault": "exit"}]) as engine:
            await engine.generate(make_request())

    with pytest.raises(SystemError, match=str(EXIT_CODE)):
        run(ask())


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"mtch": "a"}, "did you mean 'match'"),
        ({"match": "("}, "valid regular expression"),
        ({"match": "a", "fault": "fire"}, "'hang'"),
    ],
)
def test_rule_error_names_the_field(rule: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EchoEngine(make_profile("echo", {"table": [rule]}), "")


@pytest.mark.parametrize(("context_tokens", "tokens"), [(4, 1), (6, 3), (8, 5), (9, 5), (100, 5)])
def test_answer_ends_at_the_context_limit(context_tokens: int, tokens: int) -> None:
    async def ask() -> Generation:
        async with open_engine("echo", context_tokens=context_tokens, default="1 2 3 4 5 6 7") as engine:
            return await engine.generate(make_request(text="one two three", images=0, max_tokens=5))

    generation = run(ask())
    assert (generation.output_tokens, generation.finish_reason, generation.prompt_tokens) == (tokens, "length", 3)
