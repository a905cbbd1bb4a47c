"""Turns that are asked one after the other: each request contains the model's own answers to the earlier turns."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from common.errors import SampleError
from common.records import Outcome
from producer.results.collect import collect_rows
from tests.support.fleet import Fleet
from tests.support.workers import ScriptedEngine, enqueue_rows, open_worker, read_samples
from workers.adapters.thyme import ThymeAdapter
from workers.engines.base import Request
from workers.execution.sample import answer_samples
from workers.execution.task import run_task
from workers.runtime.worker import Worker

ASK = {"multi_turn": "ask"}
WRITTEN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "written 1"},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "written 2"},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "answer to Three?"},
]
ROW = {"id": "a", "messages": WRITTEN}


@pytest.fixture
def worker(fleet: Fleet) -> Iterator[Worker]:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        worker.host.engine = ScriptedEngine(lambda request: f"answer to {request.messages[-1].text}")
        yield worker


def answer(worker: Worker, fleet: Fleet, rows: list[dict[str, Any]], **spec: Any) -> dict[str, Outcome]:
    """Answer the rows of a dataset, with turns asked one after the other. Return the outcomes by the rows' ids."""
    run_id = enqueue_rows(fleet, "tried", rows, **{"prompt": ASK, **spec})
    samples, run = read_samples(worker, run_id), worker.runs.load(run_id)
    return {one.index: one for batch in answer_samples(worker.host, run, samples, lambda: False) for one in batch}


def script(worker: Worker, reply: Callable[[Request], str]) -> ScriptedEngine:
    worker.host.engine = engine = ScriptedEngine(reply)
    return engine


def show(request: Request) -> list[str]:
    return [f"{message.role}: {message.text}" for message in request.messages]


def list_asked(worker: Worker) -> list[Request]:
    engine = worker.host.engine
    assert isinstance(engine, ScriptedEngine)
    return engine.asked


def test_each_turn_follows_the_models_own_answers(worker: Worker, fleet: Fleet) -> None:
    outcome = answer(worker, fleet, [ROW])["a"]
    growing = ["system: Be brief.", "user: One?"]
    second = [*growing, "assistant: answer to One?", "user: Two?"]
    third = [*second, "assistant: answer to Two?", "user: Three?"]
    assert [show(request) for request in list_asked(worker)] == [growing, second, third]
    assert (outcome.status, outcome.response, outcome.prediction) == ("ok", "answer to Three?", "answer to Three?")
    assert outcome.target == ("answer to Three?",)
    assert [attempt.response for attempt in outcome.attempts] == ["answer to Three?"]


def test_outcome_holds_the_answer_to_each_turn(worker: Worker, fleet: Fleet) -> None:
    outcome = answer(worker, fleet, [ROW])["a"]
    assert [(turn.number, turn.response, turn.prediction, turn.target) for turn in outcome.turns] == [
        (1, "answer to One?", "answer to One?", "written 1"),
        (2, "answer to Two?", "answer to Two?", "written 2"),
    ]
    assert {(turn.attempts, turn.finish_reason, turn.prompt_tokens, turn.output_tokens) for turn in outcome.turns} == {
        (1, "stop", 1, 3)
    }
    assert outcome.counted_tokens == 9


def test_row_with_one_turn_is_asked_as_before(worker: Worker, fleet: Fleet) -> None:
    rows: list[dict[str, Any]] = [{"id": "a", "question": "Why?"}, {"id": "b", "messages": WRITTEN[:2]}]
    asked = {}
    for multi_turn in ("given", "ask"):
        outcomes = answer(worker, fleet, rows, prompt={"multi_turn": multi_turn})
        requests = list_asked(worker)
        asked[multi_turn] = sorted((show(one), one.request_id, one.settings.seed) for one in requests)
        assert {one.turns for one in outcomes.values()} == {()}
        requests.clear()
    assert asked["ask"] == asked["given"]


def test_written_answers_are_sent_by_default(worker: Worker, fleet: Fleet) -> None:
    assert answer(worker, fleet, [ROW], prompt={})["a"].turns == ()
    (request,) = list_asked(worker)
    assert show(request)[2] == "assistant: written 1"


def test_media_stay_in_their_turns(worker: Worker, fleet: Fleet) -> None:
    for colour in ("red", "blue", "lime"):
        Image.new("RGB", (8, 8), colour).save(fleet.folder / f"{colour}.png")
    parts = [{"type": "image_url", "image_url": {"url": "blue.png"}}, {"type": "text", "text": "And this?"}]
    rows: list[dict[str, Any]] = [
        {
            "id": "a",
            "image": "red.png",
            "messages": [{"role": "user", "content": "What is it?"}, {"role": "user", "content": parts}],
        },
        {"id": "b", "question": ["See <ImageHere>.", "And <ImageHere>?"], "image": ["lime.png", "red.png"]},
    ]
    answer(worker, fleet, rows)
    pixels = {(255, 0, 0): "red", (0, 0, 255): "blue", (0, 255, 0): "lime"}
    shown = sorted([pixels[one.getpixel((0, 0))] for one in request.shown] for request in list_asked(worker))  # type: ignore[index]  # an RGB pixel
    assert shown == [["lime"], ["lime", "red"], ["red"], ["red", "blue"]]
    contents = [[message.content for message in request.messages if message.role == "user"] for request in list_asked(worker)]
    assert sorted(contents, key=str) == [
        [("See ", 0, "."), ("And ", 1, "?")],
        [("See ", 0, ".")],
        [(0, "What is it?"), (1, "And this?")],
        [(0, "What is it?")],
    ]


def test_thinking_is_not_sent_to_later_turns(worker: Worker, fleet: Fleet) -> None:
    worker.host.adapter = ThymeAdapter()
    worker.host.engine = ScriptedEngine("<think>hm</think><answer>yes</answer>")
    outcome = answer(worker, fleet, [ROW])["a"]
    assert [message.text for message in list_asked(worker)[-1].messages if message.role == "assistant"] == ["yes", "yes"]
    assert [(turn.response, turn.prediction) for turn in outcome.turns] == [("<think>hm</think><answer>yes</answer>", "yes")] * 2


def test_validators_check_only_the_last_turn(worker: Worker, fleet: Fleet) -> None:
    validation = {"max_attempts": 2, "validators": [{"regex": "Three"}]}
    outcome = answer(worker, fleet, [ROW], validation=validation)["a"]
    assert (outcome.status, len(list_asked(worker))) == ("ok", 3)


def test_retry_repeats_only_the_last_turn(worker: Worker, fleet: Fleet) -> None:
    script(worker, lambda request: "no" if request.attempt < 3 else "yes")
    outcome = answer(worker, fleet, [ROW], validation={"max_attempts": 3, "validators": [{"regex": "yes"}]})["a"]
    asked = [(show(request)[-1].split("\n")[0], request.attempt) for request in list_asked(worker)]
    assert asked == [("user: One?", 1), ("user: Two?", 1), ("user: Three?", 1), ("user: Three?", 2), ("user: Three?", 3)]
    assert [attempt.response for attempt in outcome.attempts] == ["no", "no", "yes"]
    assert [turn.response for turn in outcome.turns] == ["no", "no"]


def test_truncated_earlier_answer_gets_more_tokens(worker: Worker, fleet: Fleet) -> None:
    script(worker, lambda request: "a b c d" if "One" in request.messages[-1].text else "ok")
    outcome = answer(worker, fleet, [ROW], generation={"max_tokens": 2})["a"]
    assert [request.settings.max_tokens for request in list_asked(worker)] == [2, 4, 2, 2]
    assert (outcome.status, outcome.turns[0].response, outcome.turns[0].attempts) == ("ok", "a b c d", 2)
    assert list_asked(worker)[1].messages[-1].text == "One?"


UNUSABLE = {
    "empty": ("", "empty"),
    "blank": (" \n", "empty"),
    "truncated": (" ".join("abcdefghijklmnopqrst"), "truncated"),
}


@pytest.mark.parametrize(("reply", "found"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_earlier_answer_ends_the_conversation(worker: Worker, fleet: Fleet, reply: str, found: str) -> None:
    script(worker, lambda request: reply if "Two" in request.messages[-1].text else "ok")
    spec: dict[str, Any] = {"generation": {"max_tokens": 2}, "validation": {"max_attempts": 2, "validators": []}}
    outcome = answer(worker, fleet, [ROW], **spec)["a"]
    assert (outcome.status, outcome.error_code) == ("invalid", "turn_unanswered")
    assert f"turn 2 of 3: the answer is {found} in the last of 2 attempts, so the later turns" in str(outcome.error_message)
    assert outcome.response is outcome.prediction is outcome.answer is None
    assert [turn.number for turn in outcome.turns] == [1]
    assert len(outcome.attempts) == 2
    assert not any("Three" in request.messages[-1].text for request in list_asked(worker))


@pytest.mark.parametrize(("question", "turn"), [("One?", 1), ("Two?", 2), ("Three?", 3)])
def test_fault_names_its_turn(worker: Worker, fleet: Fleet, question: str, turn: int) -> None:
    def reply(request: Request) -> str:
        if request.messages[-1].text == question:
            raise SampleError("too_long", "the prompt has 9 tokens")
        return "ok"

    script(worker, reply)
    outcome = answer(worker, fleet, [ROW])["a"]
    assert (outcome.status, outcome.error_code) == ("failed", "too_long")
    assert outcome.error_message == f"turn {turn} of 3: the prompt has 9 tokens"
    assert [one.number for one in outcome.turns] == list(range(1, turn))
    assert outcome.attempts == ()


def test_fault_of_a_single_question_names_no_turn(worker: Worker, fleet: Fleet) -> None:
    def reply(request: Request) -> str:
        raise SampleError("too_long", "the prompt has 9 tokens")

    script(worker, reply)
    assert answer(worker, fleet, [{"id": "a", "question": "Why?"}])["a"].error_message == "the prompt has 9 tokens"


def test_seeds_differ_by_turn_and_repeat(worker: Worker, fleet: Fleet) -> None:
    seeds = []
    for _ in range(2):
        outcome = answer(worker, fleet, [ROW], generation={"temperature": 0.5})["a"]
        seeds.append([request.settings.seed for request in list_asked(worker)])
        assert [*(turn.seed for turn in outcome.turns), outcome.attempts[-1].seed] == seeds[-1]
        list_asked(worker).clear()
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], None}) == 4


def test_turns_of_the_prompt_are_asked(worker: Worker, fleet: Fleet) -> None:
    turns = [{"role": "user", "text": "Look."}, {"role": "assistant", "text": "Yes."}, {"role": "user", "text": "{{ question }}"}]
    answer(worker, fleet, [{"id": "a", "question": "Why?"}], prompt={**ASK, "turns": turns})
    assert [show(request) for request in list_asked(worker)] == [
        ["user: Look."],
        ["user: Look.", "assistant: answer to Look.", "user: Why?"],
    ]


def test_twin_keeps_its_own_written_answers(worker: Worker, fleet: Fleet) -> None:
    other = [turn if turn["role"] != "assistant" else {**turn, "content": "other"} for turn in WRITTEN]
    run_id = enqueue_rows(fleet, "tried", [ROW, {"id": "b", "messages": other}], prompt=ASK)
    assert run_task(worker, run_id, 0) == "done"
    assert len(list_asked(worker)) == 3
    rows = {one.index: one for one in collect_rows(run_id, fleet.store)}
    assert [turn.target for turn in rows["a"].turns] == ["written 1", "written 2"]
    assert [turn.target for turn in rows["b"].turns] == ["other", "other"]
    assert rows["b"].target == ("other",)


def test_retried_conversation_continues_at_its_turn(worker: Worker, fleet: Fleet) -> None:
    script(worker, lambda request: "" if "Two" in request.messages[-1].text and request.attempt < 4 else "ok")
    validation = {"max_attempts": 2, "validators": ["non_empty"]}
    run_id = enqueue_rows(fleet, "tried", [ROW], prompt=ASK, validation=validation)
    assert run_task(worker, run_id, 0) == "done"
    list_asked(worker).clear()
    fleet.run_producer("resume", run_id, "--retry", "invalid")
    run_task(worker, run_id, 1)  # this worker does not receive messages
    assert fleet.wait_for_end(run_id).samples.ok == 1
    asked = [(show(request)[-1].split("\n")[0], request.attempt) for request in list_asked(worker)]
    assert asked == [("user: One?", 1), ("user: Two?", 3), ("user: Two?", 4), ("user: Three?", 1)]
    (outcome,) = fleet.collect(run_id)
    assert (outcome.status, [turn.response for turn in outcome.turns], outcome.response) == ("ok", ["ok", "ok"], "ok")
    assert [attempt.response for attempt in outcome.attempts] == ["", "", "ok"]
