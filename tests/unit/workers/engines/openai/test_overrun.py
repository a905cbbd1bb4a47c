"""Error messages of real servers about the length of a request, and their classification by the engine."""

import json
from typing import Any

import httpx2
import pytest

from common.errors import SampleError
from tests.support.engines.openai_asking import answer_first, ask, server
from tests.support.servers.openai_server import OpenAIServer, refuse, say, say_json
from workers.engines.base import Generation
from workers.engines.openai.errors import Endpoint, classify_status
from workers.engines.openai.overrun import TooLong
from workers.engines.openai.wire import read_context

__all__ = ["server"]  # a fixture

ENDPOINT = Endpoint("local", "m", "http://host/v1", None)
LONG = "word " * 2_000_000


def wrap(message: str, **error: Any) -> dict[str, Any]:
    return {"error": {"message": message, **error}}


def classify(status: int, body: object) -> Exception:
    request = httpx2.Request("POST", "http://host/v1/chat/completions")
    return classify_status(httpx2.Response(status, content=json.dumps(body).encode(), request=request), ENDPOINT)


OPENAI = "This model's maximum context length is 4097 tokens. However, your messages resulted in 192871 tokens."
VLLM = "This model's maximum context length is 2048 tokens. However, "
OVERRUN_OF_LLAMA_CPP = wrap("the request exceeds", type="exceed_context_size_error", n_prompt_tokens=14429, n_ctx=8192)
TOO_LONG = [
    ("OpenAI", 400, wrap(OPENAI, code="context_length_exceeded"), "192871", 4097),
    ("vLLM", 400, wrap(f"{VLLM}your prompt contains at least 2049 input tokens, which exceeds", code=400), "at least 2049", 2048),
    (
        "vLLM without an error object",
        400,
        {"object": "error", "message": f"{VLLM}you requested 9000 tokens (8900 in the messages, 100 in"},
        "8900",
        2048,
    ),
    ("vLLM's engine", 400, wrap("The decoder prompt (length 5000) is longer than the maximum model length of 2048."), "5000", 2048),
    (
        "vLLM 0.14",
        400,
        wrap("You passed 5000 input tokens and requested 9. However, the model's context length is only 4096 tokens"),
        "5000",
        4096,
    ),
    (
        "SGLang",
        400,
        {"message": "The input (61709 tokens) is longer than the model's context length (40960 tokens)."},
        "61709",
        40960,
    ),
    (
        "SGLang's scheduler",
        400,
        wrap("Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."),
        "160062",
        59862,
    ),
    ("llama.cpp", 400, OVERRUN_OF_LLAMA_CPP, "14429", 8192),
    ("llama.cpp as 500", 500, OVERRUN_OF_LLAMA_CPP, "14429", 8192),
    (
        "TGI",
        422,
        {"error": "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3474 `inputs` tokens and 60 `max_new_tokens`"},
        "3474",
        2048,
    ),
    ("TGI's inputs", 422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1168"}, "1168", 1024),
    (
        "Google",
        400,
        [wrap("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).")],
        "1200000",
        1048576,
    ),
    ("Anthropic", 400, wrap("prompt is too long: 208310 tokens > 200000 maximum"), "208310", 200000),
    (
        "Mistral",
        400,
        {"message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"},
        "40000",
        32768,
    ),
    (
        "OpenRouter",
        400,
        wrap("This endpoint's maximum context length is 131,072 tokens. You requested about 140000 tokens (139,000 of text input"),
        "139000",
        131072,
    ),
    ("llama-cpp-python", 500, wrap("Requested tokens (2285) exceed context window of 2048"), "2285", 2048),
]


@pytest.mark.parametrize(
    ("status", "body", "prompt", "context"), [case[1:] for case in TOO_LONG], ids=[case[0] for case in TOO_LONG]
)
def test_prompt_and_context_are_read_from_error(status: int, body: object, prompt: str, context: int) -> None:
    error = classify(status, body)
    assert isinstance(error, TooLong)
    assert error.code == "too_long"
    assert error.room is None
    assert str(error).startswith(f"the prompt has {prompt} tokens, but the context of the model has {context}; expected")
    assert f"(HTTP {status}: " in str(error)


@pytest.mark.parametrize(
    "message",
    [
        "Your input exceeds the context window of this model.",
        f"{VLLM}your prompt contains 99999 characters (more than 26624, which is the upper bound for 2048 input tokens)",
    ],
)
def test_missing_numbers_are_omitted_from_error(message: str) -> None:
    error = classify(400, wrap(message, code="context_length_exceeded"))
    assert isinstance(error, TooLong)
    assert str(error).startswith("the prompt is longer than the context of the model; shorten the text or the images (HTTP 400: ")


OVERRUNS = [
    (f"{VLLM}you requested 2060 tokens (2000 in the messages, 60 in the completion).", 48),
    (f"'max_tokens' is too large: 4096. {VLLM[:-11]} and your request has 1500 input tokens (4096 > 2048 - 1500).", 548),
    (
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens: "
        "3000 tokens from the input messages and 2000 tokens for the completion.",
        1096,
    ),
    ("`inputs` tokens + `max_new_tokens` must be <= 8192. Given: 6204 `inputs` tokens and 2047 `max_new_tokens`", 1988),
    (f"{VLLM}you requested 100 output tokens and your prompt contains at least 1949 input tokens, for a total", None),
]


@pytest.mark.parametrize(("message", "room"), OVERRUNS)
def test_room_for_max_tokens_is_read_from_error(message: str, room: int | None) -> None:
    error = classify(400, wrap(message))
    assert isinstance(error, TooLong)
    assert error.room == room
    assert "leaves too few for max_tokens; lower generation.max_tokens or shorten the prompt" in str(error)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "temperature must be <= 2"),
        (400, "max_tokens=5000 cannot be greater than max_model_len=2048"),
        (413, "413 Request Entity Too Large"),
        (422, "the image has 5000 input tokens"),
    ],
)
def test_other_rejections_keep_their_code(status: int, message: str) -> None:
    error = classify(status, wrap(message))
    assert isinstance(error, SampleError)
    assert error.code == "engine_rejected"


def test_max_tokens_is_lowered_to_fit_context(server: OpenAIServer) -> None:
    overrun = f"{VLLM}you requested 2050 tokens (2045 in the messages, 5 in the completion)."
    server.reply = answer_first(refuse(400, overrun))
    (answer,) = ask(server, "x")
    assert answer == Generation("ok", "stop", 11, 1)
    assert [asked.body["max_tokens"] for asked in server.asked] == [6, 3]


def test_second_overrun_fails_the_sample(server: OpenAIServer) -> None:
    overrun = f"{VLLM}you requested 2050 tokens (2045 in the messages, 5 in the completion)."
    server.reply = lambda _: refuse(400, overrun)
    (fault,) = ask(server, "x")
    assert (type(fault), fault.code) == (TooLong, "too_long")
    assert [asked.body["max_tokens"] for asked in server.asked] == [6, 3]


def test_overrun_with_status_200_fails_sample(server: OpenAIServer) -> None:
    server.reply = lambda _: say_json(OVERRUN_OF_LLAMA_CPP)
    (fault,) = ask(server, "x")
    assert (type(fault), fault.code) == (TooLong, "too_long")
    assert len(server.asked) == 1


# Long texts.


def test_text_longer_than_context_is_not_sent(server: OpenAIServer) -> None:
    server.models = say_json({"data": [{"id": "other", "max_model_len": 10**9}, {"id": "some-model", "max_model_len": 2048}]})
    first, short, second = ask(server, LONG, "x", LONG)
    assert short.text == "ok"
    for fault in (first, second):
        assert fault.code == "too_long"
        assert str(fault).startswith("the prompt has at least 39062 tokens, but the context of the model has 2048; expected")
    assert [asked.text for asked in server.asked] == ["x"]
    assert server.lists == 1


@pytest.mark.parametrize(
    "models",
    [None, [], [{"id": "other", "max_model_len": 5}], [{"id": "some-model"}], [{"id": "some-model", "max_model_len": 10**6}]],
)
def test_long_text_without_known_limit_is_sent(server: OpenAIServer, models: list[dict[str, Any]] | None) -> None:
    server.models = refuse(404) if models is None else say_json({"data": models})
    server.reply = lambda asked: say(str(len(asked.text)))
    (answer,) = ask(server, LONG)
    assert answer.text == str(len(LONG))


def test_model_list_is_requested_again_after_failure(server: OpenAIServer) -> None:
    server.models = say_json({"data": [{"id": "some-model", "max_model_len": 2048}]})
    server.cut_lists = 1
    first, second = ask(server, LONG, LONG, concurrency=1)
    assert first.text == "ok"
    assert second.code == "too_long"
    assert server.lists == 2


def test_short_texts_do_not_request_the_model_list(server: OpenAIServer) -> None:
    ask(server, "x", "y")
    assert server.lists == 0


@pytest.mark.parametrize(
    ("body", "context"),
    [
        ({"data": [{"id": "m", "max_model_len": 2048}]}, 2048),
        ({"data": [{"id": "m", "context_length": 4096}]}, 4096),
        ({"data": [{"id": "m", "context_window": 8192}]}, 8192),
        ({"data": [{"id": "n", "max_model_len": 2048}]}, None),
        ({"data": [{"id": "m", "max_model_len": "long"}]}, None),
        ({"data": None}, None),
        ([], None),
    ],
)
def test_context_is_read_from_the_model_list(body: object, context: int | None) -> None:
    assert read_context(json.dumps(body).encode(), "m") == context


def test_html_page_does_not_state_a_context() -> None:
    assert read_context(b"<html>", "m") is None
