"""An engine without a model: it answers from a table with fixed delays and faults.

Use it in tests and to benchmark the queue.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import Field

from common.errors import EngineError, OutOfMemory, SampleError
from common.records import FinishReason
from common.spec.base import Written
from common.spec.files import check, load_yaml
from common.spec.models import ModelProfile, Spec
from workers.engines.base import Generation, Request
from workers.engines.context import check_prompt_tokens

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h: the worker process exits as if the engine had crashed

Fault = Literal["out_of_memory", "error", "hang", "exit"]


class Rule(Spec):
    """The response to a request whose last user message matches the regular expression ``match``.

    Attempt ``n`` gets the ``n``-th of ``answers``; the last answer repeats. A ``fault`` replaces the answer, after the delay.
    """

    match: re.Pattern[str] = Field(description="the regular expression (re.search)")
    answers: tuple[str, ...] = Field(("ok",), min_length=1, description="the answer of each attempt; the last one repeats")
    delay_s: float | None = Field(None, ge=0, description="delay before the answer; by default, delay_s of the engine")
    fault: Fault | None = Field(None, description="a failure in place of the answer")
    finish_reason: FinishReason | None = Field(
        None, description="finish reason of the answer; by default, stop, or length if max_tokens cut the answer"
    )


class Table(Spec):
    """The content of a rules file. The first rule that matches applies."""

    rules: tuple[Rule, ...]


class EchoOptions(Spec):
    """The echo engine answers from a table, without a model."""

    table: Annotated[tuple[Rule, ...], Written("list of rules, or text")] = Field(
        (), description="rules, or the path of a YAML file with rules: [...]; the first rule that matches applies"
    )
    default: str = Field("ok", description="the answer if no rule matches")
    delay_s: float = Field(0.0, ge=0, description="delay before an answer, unless its rule sets another")
    load_s: float = Field(0.0, ge=0, description="duration of the start")
    context_tokens: int | None = Field(None, ge=1, description="context of the model; by default, unlimited")


class EchoEngine:
    """Answers each request separately, without batching.

    Each word and each image of the prompt counts as one token. ``max_tokens`` and the context truncate the answer.
    Raises ``ConfigError`` for invalid ``engine_options`` or an invalid table file.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        del weights
        raw = dict(profile.engine_options)
        if isinstance(path := raw.get("table"), str):
            raw["table"] = check(Table, load_yaml(Path(path)), path).rules
        self._options = check(EchoOptions, raw, f"profile {profile.name}: engine_options")
        self._default = Rule(match=re.compile(""), answers=(self._options.default,))
        self._is_running = False

    async def start(self) -> None:
        await asyncio.sleep(self._options.load_s)
        self._is_running = True

    async def generate(self, request: Request) -> Generation:
        """Return the table's answer.

        Without a delay, the call does not yield to the event loop and takes a few microseconds.
        Raises ``EngineError`` if the engine is not started, ``SampleError`` (``too_long``) if the prompt fills the context, and
        the matching rule's ``SampleError`` or ``OutOfMemory``.
        """
        if not self._is_running:
            raise EngineError("the echo engine is not running")
        prompt_tokens, context_tokens = _count_prompt_tokens(request), self._options.context_tokens
        most_tokens = request.settings.max_tokens
        if context_tokens is not None:
            check_prompt_tokens(prompt_tokens, context_tokens)
            most_tokens = min(most_tokens, context_tokens - prompt_tokens)
        rule = self._find_rule(request)
        delay_s = self._options.delay_s if rule.delay_s is None else rule.delay_s
        if delay_s:
            await asyncio.sleep(delay_s)
        if rule.fault == "hang":
            await asyncio.get_running_loop().create_future()
        elif rule.fault:
            _raise_fault(rule.fault, request)
        return _answer(rule, request.attempt, prompt_tokens, most_tokens)

    async def stop(self) -> None:
        self._is_running = False

    def _find_rule(self, request: Request) -> Rule:
        if not self._options.table:
            return self._default
        question = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
        return next((rule for rule in self._options.table if rule.match.search(question)), self._default)


def _raise_fault(fault: Fault, request: Request) -> NoReturn:
    if fault == "exit":
        os._exit(EXIT_CODE)
    if fault == "out_of_memory":
        raise OutOfMemory(f"echo table: request {request.request_id} matches a rule with fault out_of_memory")
    raise SampleError("engine_rejected", f"echo table: request {request.request_id} matches a rule with fault error")


def _answer(rule: Rule, attempt: int, prompt_tokens: int, most_tokens: int) -> Generation:
    text = rule.answers[min(attempt, len(rule.answers)) - 1]
    words = text.split()
    finish_reason: FinishReason = "stop"
    if len(words) > most_tokens:
        words = words[:most_tokens]
        text, finish_reason = " ".join(words), "length"
    return Generation(text, rule.finish_reason or finish_reason, prompt_tokens, len(words))


def _count_prompt_tokens(request: Request) -> int:
    """Return the number of words and images. Counting spaces is much faster than splitting a long text table."""
    return sum(message.text.count(" ") + 1 for message in request.messages) + len(request.shown)
