"""All engines send the same messages: texts and images in order, compared token by token with the tiny model."""

import base64
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from common.spec.models import SamplingParams
from tests.support.engines.openai_asking import open_openai, server
from tests.support.engines.requests import TINY, make_profile, run
from tests.support.engines.vllm_cpu.process import LOAD_S, VllmHost
from tests.support.servers.openai_server import OpenAIServer
from workers.engines.base import Message, Request
from workers.engines.hf.batching import Waiting
from workers.engines.hf.model import HfModel, HfOptions

__all__ = ["server"]  # a fixture

pytestmark = pytest.mark.timeout(2 * LOAD_S)

PICTURES = tuple(Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue"))
ASKED = (
    Message("system", ("Be brief.",)),
    Message("user", ("This is ", 1, ". Which colour?")),
    Message("assistant", ("It is green.",)),
    Message("user", ("And ", 0, "?")),
    Message("assistant", ("red",)),
    Message("user", ("Is ", 2, " blue?")),
)
CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "image first": (Message("user", (0, "What is it?")),),
    "image last": (Message("user", ("What is it? ", 0)),),
    "interleaved": (Message("user", ("First this: ", 0, " then this: ", 1, " Which came first?")),),
    "images only": (Message("user", (2, 0)),),
    "shown twice": (Message("user", (1, "and", 0, "and again", 1)),),
    "system": (Message("system", ("Answer in one word.",)), Message("user", (1, 2, 0, "How many?"))),
    "turns": (
        Message("user", ("This is ", 0, ".")),
        Message("assistant", ("It is red.",)),
        Message("user", ("And ", 1, "?")),
    ),
    "text": (
        Message("system", ("Be brief.",)),
        Message("user", ("Why?",)),
        Message("assistant", ("So.",)),
        Message("user", ("No?",)),
    ),
    # The requests of a conversation whose turns are asked one after the other. All of them have the images of all turns.
    "asked turn 1": ASKED[:2],
    "asked turn 2": ASKED[:4],
    "asked turn 3": ASKED,
}


def make_request(name: str) -> Request:
    return Request(name, CONVERSATIONS[name], PICTURES, SamplingParams(max_tokens=1))


@pytest.fixture(scope="module")
def hf_model() -> Iterator[HfModel]:
    model = HfModel(make_profile("hf"), TINY, HfOptions(dtype="float32"))
    yield model
    model.release()


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(TINY)  # type: ignore[no-untyped-call]  # transformers does not annotate it


def list_hf_tokens(model: HfModel, request: Request) -> list[int]:
    future: Any = None
    tokens: list[int] = model.prepare([Waiting(request, model.render(request), future)])["input_ids"][0].tolist()
    return tokens


def list_expected(processor: Any, messages: tuple[Message, ...]) -> list[int]:
    """Return the tokens of messages by the rules of the tiny model, without a chat template."""
    text = "<s>"
    for message in messages:
        content = "".join(part if isinstance(part, str) else "<image>" * 64 for part in message.content)
        text += f"<|{message.role}|>{content}" + ("</s>" if message.role == "assistant" else "")
    tokens: list[int] = processor.tokenizer(text + "<|assistant|>", add_special_tokens=False)["input_ids"]
    return tokens


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_hf_sends_texts_and_images_in_order(hf_model: HfModel, processor: Any, name: str) -> None:
    assert list_hf_tokens(hf_model, make_request(name)) == list_expected(processor, CONVERSATIONS[name])


def test_each_asked_turn_begins_with_the_last_one(hf_model: HfModel) -> None:
    """Engines with a prefix cache reuse the tokens of the earlier turns."""
    first, second, third = (list_hf_tokens(hf_model, make_request(f"asked turn {number}")) for number in (1, 2, 3))
    assert second[: len(first)] == first
    assert third[: len(second)] == second


def test_vllm_sends_the_same_tokens_as_hf(vllm_host: VllmHost, hf_model: HfModel) -> None:
    async def list_tokens() -> dict[str, list[int]]:
        async with vllm_host.open_shared() as engine:
            return {name: await engine.list_tokens(make_request(name)) for name in CONVERSATIONS}

    assert run(list_tokens(), deadline_s=LOAD_S) == {name: list_hf_tokens(hf_model, make_request(name)) for name in CONVERSATIONS}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_openai_sends_the_same_messages_as_hf(server: OpenAIServer, hf_model: HfModel, name: str) -> None:
    async def ask() -> None:
        async with open_openai(server) as engine:
            await engine.generate(make_request(name))

    run(ask())
    messages, pictures = read_messages(server.asked[-1].body["messages"])
    received = Request(name, messages, pictures, SamplingParams())
    assert list_hf_tokens(hf_model, received) == list_hf_tokens(hf_model, make_request(name))
    assert [picture.getpixel((0, 0)) for picture in received.shown] == [
        shown.getpixel((0, 0)) for shown in make_request(name).shown
    ]


def read_messages(sent: list[dict[str, Any]]) -> tuple[tuple[Message, ...], tuple[Image.Image, ...]]:
    """Return the messages and images of a request in OpenAI's format."""
    pictures: list[Image.Image] = []

    def read_part(part: dict[str, Any]) -> str | int:
        if part["type"] == "text":
            return str(part["text"])
        pictures.append(Image.open(BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))))
        return len(pictures) - 1

    contents = [(one["content"],) if isinstance(one["content"], str) else tuple(map(read_part, one["content"])) for one in sent]
    messages = tuple(Message(one["role"], content) for one, content in zip(sent, contents, strict=True))
    return messages, tuple(pictures)


@pytest.fixture
def text_weights(tmp_path: Path) -> str:
    """Return the tiny model with a chat template that takes only texts."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}{{ '<|assistant|>' }}"
    )
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_template_of_texts_gets_images_in_place(vllm_host: VllmHost, text_weights: str) -> None:
    request = make_request("interleaved")
    model = HfModel(make_profile("hf"), text_weights, HfOptions(dtype="float32"))
    ours = list_hf_tokens(model, request)
    assert model.render(request) == ("<|user|>First this: \n<image>\n then this: \n<image>\n Which came first?<|assistant|>")

    async def list_tokens() -> list[int]:
        async with vllm_host.load(weights=text_weights) as engine:
            await engine.start()
            try:
                return await engine.list_tokens(request)
            finally:
                await engine.stop()

    assert run(list_tokens(), deadline_s=LOAD_S) == ours
