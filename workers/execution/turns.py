"""Ask the turns of a conversation one after the other. Each request contains the model's own answers to the earlier turns.

The answer to an earlier turn must not be empty or truncated, because the later turns depend on it. Such an answer leads to the next
attempt of its turn, with the settings of the retry ladder. If no attempt gives a usable answer, the conversation ends there. The
validators of the run check the answer to the last turn only, and a retry repeats one turn, not the conversation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.answers.validators import build_validators
from common.errors import SampleError
from common.records import Attempt, Sample, TurnAnswer
from common.sample_codes import SampleCode
from workers.engines.base import Message
from workers.execution.attempts import Made, ask_until_valid
from workers.execution.requests import Placed
from workers.runtime.engine_host import EngineHost
from workers.runtime.run_context import RunContext

# The answers to earlier turns must pass these validators. A truncated answer has the finish reason of ``finished``.
_USABLE = build_validators(("non_empty", "finished"))


@dataclass
class Answers:
    """The answers to a sample so far.

    - ``turns`` are the answers to the turns before the last one.
    - ``made`` are the attempts for the last turn.
    - ``unusable`` are the attempts for an earlier turn at which the conversation ended.
    """

    turns: list[TurnAnswer] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    unusable: list[Made] = field(default_factory=list)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Return the attempts for the last turn that was asked."""
        return tuple(one.attempt for one in self.made or self.unusable)


async def ask_turns(host: EngineHost, run: RunContext, sample: Sample, asked: Placed, turns: int, answers: Answers) -> None:
    """Ask the last ``turns`` messages of ``asked``, one after the other, and add the attempts to ``answers``.

    Raises ``SampleError`` with the number of the turn, also if no attempt gives a usable answer to an earlier turn.
    """
    messages = asked.messages
    conversation = messages[:-turns]
    for number, message in enumerate(messages[-turns:-1], start=1):
        conversation = (*conversation, message)
        with _name_turn(number, turns):
            answer = await _answer_turn(host, run, sample, asked._replace(messages=conversation), number, answers)
        conversation = (*conversation, Message("assistant", (answer.prediction,)))
    with _name_turn(turns, turns):
        last = sample if sample.turn_before is None else sample.model_copy(update={"made_before": 0, "violations_before": ()})
        whole = asked._replace(messages=(*conversation, messages[-1]))
        await ask_until_valid(host, run, last, whole, run.validators, answers.made)


@contextmanager
def _name_turn(number: int, turns: int) -> Iterator[None]:
    """Add the number of the turn to the message of a ``SampleError``, if there are several turns."""
    try:
        yield
    except SampleError as error:
        if turns > 1:
            error.args = (f"turn {number} of {turns}: {error}",)
        raise


async def _answer_turn(
    host: EngineHost, run: RunContext, sample: Sample, asked: Placed, number: int, answers: Answers
) -> TurnAnswer:
    """Add the answer to an earlier turn to ``answers``. Raises ``SampleError`` if no attempt gives a usable answer."""
    made = answers.unusable
    await ask_until_valid(host, run, _make_question(sample, number), asked, _USABLE, made)
    last = made[-1]
    if last.attempt.violations:
        found = "truncated" if last.answered.prediction.strip() else "empty"
        raise SampleError(
            SampleCode.TURN_UNANSWERED,
            f"the answer is {found} in the last of {len(made)} attempts, so the later turns are not asked; expected a complete "
            "answer; raise generation.max_tokens, or change the turn",
        )
    targets = sample.turn_targets
    answers.turns.append(
        TurnAnswer(
            number=number,
            response=last.answered.text,
            prediction=last.answered.prediction,
            target=targets[number - 1] if targets else None,
            attempts=len(made),
            prompt_tokens=last.generation.prompt_tokens,
            output_tokens=last.generation.output_tokens,
            finish_reason=last.attempt.finish_reason,
            temperature=last.attempt.temperature,
            seed=last.attempt.seed,
            latency_s=last.attempt.latency_s,
        )
    )
    made.clear()
    return answers.turns[-1]


def _make_question(sample: Sample, number: int) -> Sample:
    """Return an earlier turn as a sample. Its own id gives it its own seeds, and any text is an answer to it.

    In a later wave, the turn at which the conversation ended continues with the next attempt. Other turns begin with attempt 1.
    """
    turn: dict[str, object] = {"sample_id": f"{sample.sample_id}.{number}", "kind": "free_text", "options": {}}
    if sample.turn_before != number:
        turn |= {"made_before": 0, "violations_before": ()}
    return sample.model_copy(update=turn)
