"""Samples become outcomes on a real worker: samples do not wait for each other, and every attempt is kept."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from common.errors import ConfigError, EngineError, OutOfMemory, SampleError, TransientError
from common.records import Outcome, Sample
from tests.support.engines.requests import make_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.media.videos import encode_video, paint_number, read_number
from tests.support.soundness import assert_run_is_sound
from tests.support.workers import ScriptedEngine, enqueue_rows, exits, open_worker, read_samples
from workers.adapters.base import Prompt
from workers.adapters.chat import ChatAdapter
from workers.engines.base import Generation, Message, Request
from workers.engines.echo import EchoEngine
from workers.execution.sample import answer_samples
from workers.execution.task import run_task
from workers.runtime.worker import Worker

__all__ = ["exits"]  # a fixture

REFUSAL = "I'm sorry, I can't help with that."


@pytest.fixture
def worker(fleet: Fleet) -> Iterator[Worker]:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        yield worker


def answer_rows(worker: Worker, fleet: Fleet, rows: list[dict[str, Any]], **spec: Any) -> dict[str, Outcome]:
    """Answer a dataset's rows and return the outcomes by question. Each question is one word."""
    run_id = enqueue_rows(fleet, "tried", rows, **spec)
    samples = read_samples(worker, run_id)
    outcomes = [one for batch in answer_samples(worker.host, worker.runs.load(run_id), samples, lambda: False) for one in batch]
    assert len({outcome.sample_id for outcome in outcomes}) == len(outcomes) == len(samples)
    questions = {sample.sample_id: sample.question for sample in samples}
    return {questions[outcome.sample_id]: outcome for outcome in outcomes}


def ask(*questions: str) -> list[dict[str, Any]]:
    return [{"id": number, "question": question, "target": "ok"} for number, question in enumerate(questions)]


def collect_until_dead(worker: Worker, run_id: str, samples: list[Sample]) -> list[Outcome]:
    """Return the outcomes that finish before the engine dies."""
    seen: list[Outcome] = []
    answering = answer_samples(worker.host, worker.runs.load(run_id), samples, lambda: False)
    with pytest.raises(EngineError, match="gone"):
        seen.extend(one for batch in answering for one in batch)
    return seen


async def wait_for_others() -> None:
    """Wait until no other task runs on the loop."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


class SlowEngine(ScriptedEngine):
    """An engine that never answers a question with ``slow`` in it, and records when that request is cancelled."""

    def __init__(self) -> None:
        super().__init__("ok")
        self.let_go = threading.Event()

    async def generate(self, request: Request) -> Generation:
        if "slow" in request.messages[-1].text:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.let_go.set()
        return await super().generate(request)


def test_slow_sample_does_not_block_others_and_is_cancelled(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = engine = SlowEngine()
    run_id = enqueue_rows(fleet, "tried", [*ask("slow"), *make_rows(9)])
    seen: list[Outcome] = []
    for batch in answer_samples(worker.host, worker.runs.load(run_id), read_samples(worker, run_id), lambda: len(seen) == 9):
        seen.extend(batch)
    assert {outcome.status for outcome in seen} == {"ok"}
    assert len(seen) == 9
    assert engine.let_go.wait(20)


def test_closed_iterator_cancels_its_requests(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = engine = SlowEngine()
    run_id = enqueue_rows(fleet, "tried", ask("slow", "quick"))
    answering = answer_samples(worker.host, worker.runs.load(run_id), read_samples(worker, run_id), lambda: False)
    assert len(next(answering)) == 1
    answering.close()  # type: ignore[attr-defined]  # it is a generator
    assert engine.let_go.wait(20)


def test_attempts_keep_violations_temperature_and_seed(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = ScriptedEngine(lambda request: ("", REFUSAL, "ok")[request.attempt - 1])
    validation = {"max_attempts": 4, "validators": ["non_empty", "no_refusal"]}
    (outcome,) = answer_rows(worker, fleet, ask("shy"), validation=validation, generation={"seed": 7}).values()
    first, second, third = outcome.attempts
    assert [one.number for one in outcome.attempts] == [1, 2, 3]
    assert [one.violations for one in outcome.attempts] == [("non_empty",), ("no_refusal",), ()]
    assert [one.response for one in outcome.attempts] == ["", REFUSAL, "ok"]
    assert [one.temperature for one in outcome.attempts] == [0.0, 0.2, 0.5]
    assert first.seed == 7
    assert len({7, second.seed, third.seed, None}) == 4
    assert (outcome.status, outcome.prediction, outcome.response) == ("ok", "ok", "ok")
    assert outcome.worker == "tried@test"


def test_answer_that_stays_invalid_is_kept(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = ScriptedEngine(REFUSAL)
    validation = {"max_attempts": 2, "validators": ["no_refusal"]}
    (outcome,) = answer_rows(worker, fleet, ask("stubborn"), validation=validation).values()
    assert (outcome.status, outcome.response, outcome.error_code) == ("invalid", REFUSAL, None)
    assert [one.violations for one in outcome.attempts] == [("no_refusal",)] * 2


@pytest.mark.parametrize("validators", [["finished"], [{"regex": "five"}]])
def test_truncated_answer_gets_more_tokens(worker: Worker, fleet: Fleet, validators: list[Any]) -> None:
    worker.host.engine = engine = ScriptedEngine("one two three four five")
    validation = {"max_attempts": 4, "validators": validators}
    (outcome,) = answer_rows(worker, fleet, ask("long"), validation=validation, generation={"max_tokens": 2}).values()
    assert [request.settings.max_tokens for request in engine.asked] == [2, 4, 8]
    assert [one.finish_reason for one in outcome.attempts] == ["length", "length", "stop"]
    assert (outcome.status, outcome.finish_reason, outcome.output_tokens) == ("ok", "stop", 5)


def refuse_over(most: int, code: str = "engine_rejected") -> ScriptedEngine:
    """Return an engine that allows ``most`` tokens and gives a short answer from the second attempt on."""

    def answer(request: Request) -> str:
        if request.settings.max_tokens > most:
            raise SampleError(code, f"max_tokens: at most {most} are allowed")
        return "five words before the answer" if request.attempt == 1 else "ok"

    return ScriptedEngine(answer)


def ask_for_two_tokens(worker: Worker, fleet: Fleet) -> Outcome:
    validation = {"max_attempts": 4, "validators": ["finished"]}
    (outcome,) = answer_rows(worker, fleet, ask("long"), validation=validation, generation={"max_tokens": 2}).values()
    return outcome


@pytest.mark.parametrize("code", ["engine_rejected", "too_long"])
def test_rejected_max_tokens_falls_back_to_the_first(worker: Worker, fleet: Fleet, code: str) -> None:
    worker.host.engine = engine = refuse_over(2, code)
    outcome = ask_for_two_tokens(worker, fleet)
    assert [request.settings.max_tokens for request in engine.asked] == [2, 4, 2]
    assert engine.asked[1].settings.model_copy(update={"max_tokens": 2}) == engine.asked[2].settings
    assert engine.asked[1].messages == engine.asked[2].messages
    assert [(one.number, one.finish_reason, one.temperature) for one in outcome.attempts] == [(1, "length", 0.0), (2, "stop", 0.2)]
    assert (outcome.status, outcome.prediction, outcome.error_code) == ("ok", "ok", None)


@pytest.mark.parametrize(
    ("most", "code", "asked", "status"), [(2, "content_filter", [2, 4], "invalid"), (1, "engine_rejected", [2], "failed")]
)
def test_any_other_refusal_is_not_retried(
    worker: Worker, fleet: Fleet, most: int, code: str, asked: list[int], status: str
) -> None:
    worker.host.engine = engine = refuse_over(most, code)
    outcome = ask_for_two_tokens(worker, fleet)
    assert [request.settings.max_tokens for request in engine.asked] == asked
    assert (outcome.status, outcome.error_code) == (status, code)


def test_answer_is_kept_if_reminder_exceeds_context(worker: Worker, fleet: Fleet) -> None:
    rules = [{"match": "", "answers": [" "]}]
    worker.host.engine = engine = EchoEngine(make_profile("echo", {"table": rules, "context_tokens": 16}), "")
    asyncio.run(engine.start())
    row = {"id": "long", "question": "one two three", "target": "ok"}
    (outcome,) = answer_rows(worker, fleet, [row], validation={"max_attempts": 4, "validators": ["non_empty"]}).values()
    assert (outcome.status, outcome.error_code, len(outcome.attempts)) == ("invalid", "too_long", 1)
    assert "tokens, but the context of the model has 16; expected" in str(outcome.error_message)


def test_faulty_row_never_reaches_the_engine(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = engine = ScriptedEngine("ok")
    outcomes = answer_rows(worker, fleet, [*ask("good"), {"id": "bad", "target": "ok"}])
    assert len(engine.asked) == 1
    assert outcomes["good"].status == "ok"
    failed = outcomes[""]
    assert (failed.status, failed.error_code, failed.attempts) == ("failed", "missing_question", ())
    assert failed.prediction is failed.response is None


@pytest.mark.parametrize("fault", [SampleError("engine_rejected", "too odd"), OutOfMemory("too big")])
def test_request_error_fails_only_its_sample(worker: Worker, fleet: Fleet, fault: Exception) -> None:
    def answer(request: Request) -> str:
        if "bad" in request.messages[-1].text:
            raise fault
        return "ok"

    worker.host.engine = ScriptedEngine(answer)
    outcomes = answer_rows(worker, fleet, ask("bad", "good"))
    assert outcomes["good"].status == "ok"
    assert (outcomes["bad"].status, outcomes["bad"].error_code) == ("failed", fault.code)  # type: ignore[attr-defined]  # both have a code
    assert outcomes["bad"].error_message == str(fault)


def test_adapter_error_fails_only_its_sample(worker: Worker, fleet: Fleet, exits: list[int]) -> None:
    surprises: tuple[type[BaseException], ...] = (
        RuntimeError,
        MemoryError,
        SystemExit,
        KeyboardInterrupt,
        asyncio.CancelledError,
    )
    by_question = {surprise.__name__: surprise for surprise in surprises}

    class OddAdapter(ChatAdapter):
        def to_prompt(self, sample: Sample, messages: tuple[Message, ...], *, reminder: str | None = None) -> Prompt:
            if surprise := by_question.get(sample.question):
                raise surprise("odd")
            return super().to_prompt(sample, messages, reminder=reminder)

    worker.host.adapter = OddAdapter()
    outcomes = answer_rows(worker, fleet, ask("good", *by_question, "fine"))
    failed = {question: one for question, one in outcomes.items() if one.status == "failed"}
    assert set(outcomes) - set(failed) == {"good", "fine"}
    assert {one.error_code for one in failed.values()} == {"unexpected_error"}
    assert {question: one.error_message for question, one in failed.items()} == {name: f"{name}: odd" for name in by_question}
    assert exits == []


def test_dead_engine_ends_chunk_after_finished_samples(worker: Worker, fleet: Fleet) -> None:
    def answer(request: Request) -> str:
        if "bad" in request.messages[-1].text:
            raise EngineError("gone")
        return "ok"

    worker.host.engine = ScriptedEngine(answer)
    run_id = enqueue_rows(fleet, "tried", [*make_rows(3), *ask("bad", "bad twice")])
    samples = sorted(read_samples(worker, run_id), key=lambda sample: "bad" in sample.question)
    seen = collect_until_dead(worker, run_id, samples)
    assert {outcome.sample_id for outcome in seen} == {sample.sample_id for sample in samples[:3]}


def away_once(fault: Exception) -> ScriptedEngine:
    """Return an engine that raises ``fault`` for the first question that contains ``bad``, and answers later ones."""
    faults = [fault]

    def answer(request: Request) -> str:
        if faults and "bad" in request.messages[-1].text:
            raise faults.pop()
        return "ok"

    return ScriptedEngine(answer)


def count_asked(engine: ScriptedEngine) -> Counter[str]:
    """Return how often the engine received each question."""
    return Counter(request.messages[-1].text.split("?")[0] for request in engine.asked)


def test_unreachable_engine_postpones_the_chunk(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = engine = away_once(TransientError("the endpoint does not answer"))
    run_id = enqueue_rows(fleet, "tried", [*make_rows(9), *ask("bad?")])
    assert run_task(worker, run_id, 0) == "away"
    assert worker.trouble == "the endpoint does not answer"
    assert fleet.status(run_id).state == "running"
    assert fleet.wait_for_end(run_id).samples.ok == 10  # the worker's own janitor takes it over
    assert_run_is_sound(fleet, run_id)
    asked = count_asked(engine)
    assert asked.pop("bad") == 2
    assert set(asked.values()) == {1}, "finished samples are in the journal"


def test_config_error_pauses_and_resume_continues(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = engine = away_once(ConfigError("the endpoint refuses the key; set OPENAI_API_KEY"))
    run_id = enqueue_rows(fleet, "tried", [*make_rows(9), *ask("bad?")])
    assert run_task(worker, run_id, 0) == "failed"
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    assert (view.state, view.reason) == ("paused", "tried@test: the endpoint refuses the key; set OPENAI_API_KEY")
    fleet.run_producer("resume", run_id)
    run_task(worker, run_id, 0)  # this worker does not receive messages
    assert fleet.wait_for_end(run_id).samples.ok == 10
    assert_run_is_sound(fleet, run_id)
    asked = count_asked(engine)
    assert asked.pop("bad") == 2
    assert set(asked.values()) == {1}


def test_most_severe_of_several_faults_is_raised(worker: Worker, fleet: Fleet) -> None:
    class FailingEngine(ScriptedEngine):
        async def generate(self, request: Request) -> Generation:
            self.asked.append(request)
            while len(self.asked) < 3:
                await asyncio.sleep(0)
            raise {"away": TransientError, "refused": ConfigError, "gone": EngineError}[request.messages[-1].text.split("?")[0]](
                "gone"
            )

    worker.host.engine = FailingEngine("never")
    run_id = enqueue_rows(fleet, "tried", ask("away?", "refused?", "gone?"))
    assert collect_until_dead(worker, run_id, read_samples(worker, run_id)) == []


def test_video_frames_precede_the_text(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = engine = ScriptedEngine("ok")
    (fleet.folder / "film.mp4").write_bytes(encode_video(5))
    paint_number(7).save(fleet.folder / "a.png")
    rows = [
        {"id": 0, "question": "film", "target": "ok", "video": "film.mp4"},
        {"id": 1, "question": "both", "target": "ok", "video": "film.mp4", "image": "a.png"},
        {"id": 2, "question": "text", "target": "ok"},
    ]
    outcomes = answer_rows(worker, fleet, rows)
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    seen = {request.messages[-1].text.split("\n")[0]: [read_number(image) for image in request.images] for request in engine.asked}
    assert seen == {"film": [0, 1, 2, 3, 4], "both": [7, 0, 1, 2, 3, 4], "text": []}
    assert all(request.messages[-1].content[:-1] == tuple(range(len(request.images))) for request in engine.asked)


def test_profile_bounds_apply_to_images_for_the_engine(fleet: Fleet) -> None:
    fleet.write_profile("small", media={"max_pixels": 960, "max_frames": 2})
    (fleet.folder / "film.mp4").write_bytes(encode_video(40))
    paint_number(7).save(fleet.folder / "a.png")
    row = {"id": 0, "question": "both", "target": "ok", "video": "film.mp4", "image": "a.png"}
    run_id = enqueue_rows(fleet, "small", [row])
    with open_worker(fleet, "small") as worker:
        worker.host.engine = engine = ScriptedEngine("ok")
        assert run_task(worker, run_id, 0) == "done"
    assert [(image.size, read_number(image)) for image in engine.asked[0].images] == [((40, 24), 7), ((40, 24), 10), ((40, 24), 30)]


def test_images_are_decoded_once(worker: Worker, fleet: Fleet) -> None:
    worker.host.engine = engine = ScriptedEngine(lambda request: "" if request.attempt < 3 else "ok")
    paint_number(7).save(fleet.folder / "a.png")
    answer_rows(worker, fleet, [{"id": 0, "question": "shy", "target": "ok", "image": "a.png"}])
    first, *others = engine.asked
    assert len(others) == 2
    assert all(request.images[0] is first.images[0] for request in others)


def test_cancelled_sample_with_another_error_has_no_outcome(worker: Worker, fleet: Fleet) -> None:
    class ConfusedEngine(ScriptedEngine):
        async def generate(self, request: Request) -> Generation:
            if "bad" in request.messages[-1].text:
                raise EngineError("gone")
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                raise RuntimeError("the engine's stream broke") from None
            return await super().generate(request)

    worker.host.engine = ConfusedEngine("never")
    run_id = enqueue_rows(fleet, "tried", [*make_rows(3), *ask("bad")])
    assert collect_until_dead(worker, run_id, read_samples(worker, run_id)) == []


def test_batches_fit_the_journal_limit(worker: Worker, fleet: Fleet) -> None:
    run_id = enqueue_rows(fleet, "tried", make_rows(1500), chunk=4096)
    answering = answer_samples(worker.host, worker.runs.load(run_id), read_samples(worker, run_id), lambda: False)
    batches = [next(answering)]
    worker.host.submit(wait_for_others()).result(60)  # all samples have finished before the chunk's thread reads them
    batches.extend(answering)
    assert sum(len(batch) for batch in batches) == 1500
    assert max(len(batch) for batch in batches) <= 512


@pytest.mark.parametrize(
    ("run_id", "chunk"),
    [
        ("x" * 60_000_000, 0),
        ("../other", 0),
        ("tried-0123456789ab", True),
        ("tried-0123456789ab", -1),
        ("tried-0123456789ab", 10**9),
    ],
    ids=["long run id", "path", "true", "negative", "large"],
)
def test_message_of_wrong_shape_is_ignored(worker: Worker, run_id: str, chunk: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_task(worker, run_id, chunk) == "unknown"
    assert worker.trouble is None
    captured = capsys.readouterr()
    assert len(captured.out + captured.err) < 3000
