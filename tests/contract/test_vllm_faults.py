"""The classification of vLLM's errors, tested with vLLM's exception types and without a model."""

import re

import pytest

from common.errors import EngineError, OutOfMemory, SampleError
from common.records import FinishReason
from tests.support.engines.requests import make_request, run
from tests.support.engines.vllm_cpu.process import LOAD_S, VllmHost
from workers.engines.base import Generation

pytestmark = pytest.mark.timeout(2 * LOAD_S)


def ask(host: VllmHost, says: str) -> Generation:
    async def ask_once() -> Generation:
        async with host.open_stubbed(says) as engine:
            return await engine.generate(make_request(images=0))

    answer: Generation = run(ask_once())
    return answer


@pytest.mark.parametrize(("given", "reason"), [("stop", "stop"), ("length", "length"), ("repetition", "length")])
def test_answer_keeps_its_finish_reason(vllm_host: VllmHost, given: str, reason: FinishReason) -> None:
    assert ask(vllm_host, given) == Generation("half an ans", reason, 2, 3)


def test_aborted_request_is_an_engine_error(vllm_host: VllmHost) -> None:
    """An engine process that exits aborts its requests with a partial answer."""
    with pytest.raises(EngineError, match="vLLM's engine process is exiting: it aborted the request") as caught:
        ask(vllm_host, "abort")
    assert caught.type is EngineError


def test_request_with_retryable_error_is_sent_again(vllm_host: VllmHost) -> None:
    assert ask(vllm_host, "error, error, stop") == Generation("half an ans", "stop", 2, 3)


@pytest.mark.parametrize("given", ["error", "some day another"])
def test_other_interrupted_request_is_a_sample_error(vllm_host: VllmHost, given: str) -> None:
    """The partial text is not an answer."""
    with pytest.raises(SampleError, match=f"with finish reason '{given}'") as caught:
        ask(vllm_host, given)
    assert caught.value.code == "engine_failed"


@pytest.mark.parametrize(
    ("says", "kind", "message"),
    [
        ("a fault", SampleError, "ValueError: the prompt is too long"),
        ("a wrapped fault", SampleError, "ValueError: the prompt is too long"),
        ("a fault wrapped twice", SampleError, "ValueError: the prompt is too long"),
        ("a wrapper without a cause", SampleError, "EngineGenerateError: "),
        ("no memory", OutOfMemory, "MemoryError: no room"),
        ("a wrapped memory error", OutOfMemory, "MemoryError: no room"),
        ("death", EngineError, "vLLM's engine process has exited"),
        ("wrapped death", EngineError, "vLLM's engine process has exited"),
        ("cancelled by vLLM", EngineError, "vLLM closed the connection to its engine process"),
    ],
)
def test_exception_is_classified_by_its_cause(vllm_host: VllmHost, says: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}") as caught:
        ask(vllm_host, says)
    assert caught.type is kind
