"""The chat-completions format: request bodies and parsing of response bodies."""

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import SampleError
from common.records import FinishReason
from common.spec.models import SamplingParams
from tests.support.engines.requests import make_request
from tests.support.servers.openai_server import say, say_json
from workers.engines.base import Generation, Message, Request
from workers.engines.openai.errors import EndpointError
from workers.engines.openai.options import OpenAIOptions
from workers.engines.openai.wire import read_generation, write_body, write_data_url


def write(request: Request, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(write_body(request, "some-model", OpenAIOptions.model_validate(options)))
    return body


def read_image(url: str) -> Image.Image:
    head, _, text = url.partition(",")
    image = Image.open(BytesIO(base64.b64decode(text, validate=True)))
    assert head == f"data:image/{str(image.format).lower()};base64"
    return image


def test_request_body_contains_only_the_settings() -> None:
    request = make_request(text="Why?", images=0, max_tokens=9, temperature=0.5, top_p=0.9, seed=2**40, stop=("a", "b"))
    assert write(request) == {
        "model": "some-model",
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 2**40,
        "stop": ["a", "b"],
    }


def test_unset_fields_are_omitted_except_greedy_sampling() -> None:
    body = write(make_request(images=0))
    assert (body["temperature"], body["top_p"]) == (0.0, 1.0)
    assert "seed" not in body
    assert "stop" not in body


def test_texts_and_images_are_sent_in_order() -> None:
    pictures = tuple(Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue"))
    messages = (
        Message("system", ("Be brief.",)),
        Message("user", ("one", 0, "two", 2, "three")),
        Message("assistant", ("ok",)),
        Message("user", (1, 0, "four")),
    )
    body = write(Request("r", messages, pictures, SamplingParams()))
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert [body["messages"][place]["content"] for place in (0, 2)] == ["Be brief.", "ok"]
    red, lime, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    shown = [
        [part.get("text") or read_image(part["image_url"]["url"]).getpixel((0, 0)) for part in message["content"]]
        for message in body["messages"][1::2]
    ]
    assert shown == [["one", red, "two", blue, "three"], [lime, red, "four"]]


@pytest.mark.parametrize("size", [(1, 1), (97, 31)])
def test_pixels_are_lossless_unless_jpeg_is_set(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(read_image(write_data_url(image, OpenAIOptions()))), pixels)
    fine, coarse = (write_data_url(image, OpenAIOptions(image_format="jpeg", jpeg_quality=quality)) for quality in (95, 10))
    assert read_image(fine).size == size
    assert len(coarse) <= len(fine)


def test_fields_can_be_renamed_omitted_and_added() -> None:
    body = write(
        make_request(images=0, seed=1),
        max_tokens_field="max_completion_tokens",
        leave_out=["seed", "temperature", "stop"],
        extra_body={"reasoning_effort": "low", "top_k": 20},
    )
    assert body.keys() == {"model", "messages", "max_completion_tokens", "top_p", "reasoning_effort", "top_k"}


def test_template_options_override_profile_options() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": True, "other": 1}}
    request = make_request(images=0)
    no_thinking = Request("r", request.messages, (), request.settings, template_options={"enable_thinking": False})
    assert "chat_template_kwargs" not in write(request)
    assert write(request, extra_body=extra)["chat_template_kwargs"] == {"enable_thinking": True, "other": 1}
    assert write(no_thinking)["chat_template_kwargs"] == {"enable_thinking": False}
    assert write(no_thinking, extra_body=extra)["chat_template_kwargs"] == {"enable_thinking": False, "other": 1}


@pytest.mark.parametrize("text", ["\0", "\ud800", "\u2028 \U0001f600", '"]}'])
def test_any_text_can_be_sent(text: str) -> None:
    assert write(make_request(text=text, images=0))["messages"][0]["content"] == text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("stop", "stop"), ("length", "length"), ("MAX_TOKENS", "length"), ("STOP", "stop"), ("tool_calls", "stop"), (None, "stop"),
    ],
)  # fmt: skip
def test_answer_has_finish_reason_and_token_counts(given: str | None, reason: FinishReason) -> None:
    generation = read_generation(say("a b c", given).content)
    assert (generation.text, generation.finish_reason) == ("a b c", reason)
    assert (generation.prompt_tokens, generation.output_tokens) == (11, 3)


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("content", [None, ""])
def test_missing_text_is_an_empty_answer(content: str | None, reason: str) -> None:
    """Validators check the empty answer."""
    generation = read_generation(say(content, reason).content)
    assert (generation.text, generation.finish_reason) == ("", reason)


def test_text_parts_are_joined() -> None:
    parts = [
        {"type": "thinking", "thinking": []},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "odd", "text": None},
    ]
    body = {"choices": [{"message": {"content": parts}}]}
    generation = read_generation(say_json(body).content)
    assert generation.text == "ab"
    assert generation.prompt_tokens is generation.output_tokens is None


def test_filtered_and_refused_answers_have_codes() -> None:
    with pytest.raises(SampleError, match="filter withheld") as caught:
        read_generation(say(None, "content_filter").content)
    assert caught.value.code == "content_filter"
    with pytest.raises(SampleError, match="declined to answer: I cannot help") as caught:
        read_generation(say(None, refusal="I cannot help").content)
    assert caught.value.code == "refused"
    assert read_generation(say("fine", refusal="").content).text == "fine"


CUT = {"message": {"content": "The answer begins"}}


@pytest.mark.parametrize("choice", [{}, {"message": None}, {"message": {"role": "assistant"}}, {"message": {"content": ""}}, CUT])
@pytest.mark.parametrize(
    "reason", ["content_filter", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "Prohibited_Content"]
)
def test_filter_reasons_of_all_vendors_are_recognized(choice: dict[str, Any], reason: str) -> None:
    with pytest.raises(SampleError, match=rf"filter withheld the answer \({reason.lower()}\)") as caught:
        read_generation(say_json({"choices": [{**choice, "finish_reason": reason, "index": 0}]}).content)
    assert caught.value.code == "content_filter"


@pytest.mark.parametrize(("given", "reason"), [("length", "length"), ("MAX_TOKENS", "length"), ("stop", "stop")])
def test_reason_without_message_is_empty_answer(given: str, reason: FinishReason) -> None:
    body = {"choices": [{"finish_reason": given, "message": None}], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}
    assert read_generation(say_json(body).content) == Generation("", reason, 7, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"{}", b'"ok"', b"\xff\xfe", b"[" * 100_000, b"<html><title>502</title></html>",
        b'{"choices": [', b'{"choices": []}', b'{"choices": null}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": 5}}]}', b'{"choices": [{"message": {"content": "half"}, "finish_reason": "error"}]}',
        b'{"error": {"message": "upstream is unavailable", "code": 502}}', b'{"choices": [{"message": null, "finish_reason": ""}]}',
        b'{"choices": [{"message": null, "finish_reason": "error"}]}',
    ],
)  # fmt: skip
def test_body_without_generation_is_an_endpoint_error(content: bytes) -> None:
    with pytest.raises(EndpointError, match=r"does not contain a generation: ."):
        read_generation(content)
