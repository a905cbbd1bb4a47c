"""The examples in ``docs/prompts.md``: each row gives the messages or requests that the page shows."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import yaml
from PIL import Image

from common.prompts.messages import Rendered, render_messages
from common.records import Message, Sample
from common.spec.files import read_specs
from common.spec.models import RunSpec
from producer.datasets import read_dataset
from tests.support.fleet import ROOT
from workers.adapters.chat import ChatAdapter
from workers.engines.base import Generation, Request
from workers.engines.base import Message as Asked
from workers.execution.requests import Placed
from workers.execution.turns import Answers, ask_turns

PAGE = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")


class Shown(NamedTuple):
    """An example of the page: the fields of the run spec, the row, and the messages of one request or of several requests."""

    spec: str
    row: str
    messages: str
    is_asked: bool


def list_examples() -> Iterator[Shown]:
    spec = row = ""
    for language, text in re.findall(r"```(yaml|json|messages|requests)\n(.*?)```", PAGE, re.DOTALL):
        if language == "yaml":
            spec = text
        elif language == "json":
            row = text
        else:
            yield Shown(spec, row, text, language == "requests")
            spec = row = ""


EXAMPLES = list(list_examples())


def show(messages: Iterable[Message | Asked], rendered: Rendered) -> str:
    def show_part(part: str | int) -> str:
        return part if isinstance(part, str) else f"[{Path(str(rendered.media[part].uri)).name}]"

    return "".join(f"{message.role}: {''.join(map(show_part, message.content))}\n" for message in messages)


class ListeningHost:
    """The parts of an engine host that asking needs. The answer names the turn."""

    adapter = ChatAdapter()

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def generate(self, request: Request) -> Generation:
        self.asked.append(request)
        return Generation(f"(the answer to turn {len(self.asked)})", "stop")


def list_requests(sample: Sample, spec: RunSpec, rendered: Rendered) -> list[tuple[Asked, ...]]:
    """Return the messages of the requests that a worker sends for a sample."""
    host: Any = ListeningHost()
    run: Any = SimpleNamespace(spec=spec, validators=(), video_input=None)
    placed = tuple(Asked(message.role, message.content) for message in rendered.messages)
    asyncio.run(ask_turns(host, run, sample, Placed(placed, (), {}), rendered.turns, Answers()))
    return [request.messages for request in host.asked]


def test_page_has_an_example_of_each_field() -> None:
    prompts = [(yaml.safe_load(shown.spec) or {}).get("prompt") for shown in EXAMPLES]
    fields = {field for prompt in prompts if isinstance(prompt, dict) for field in prompt}
    assert fields == {"template", "system", "suffix", "examples", "turns", "multi_turn"}
    assert "lmms_eval" in EXAMPLES[1].spec


@pytest.mark.parametrize("shown", EXAMPLES, ids=range(len(EXAMPLES)))
def test_row_gives_the_messages_of_the_page(tmp_path: Path, shown: Shown) -> None:
    for name in ("a", "b", "shot"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "rows.jsonl").write_text(shown.row)
    (tmp_path / "run.yaml").write_text(f"model: echo\ndatasets: [{{path: rows.jsonl}}]\n{shown.spec}")
    (spec,) = read_specs(tmp_path / "run.yaml")
    (sample,) = read_dataset(spec.datasets[0])
    rendered = render_messages(sample, spec.prompt)
    if shown.is_asked:
        assert "\n".join(show(messages, rendered) for messages in list_requests(sample, spec, rendered)) == shown.messages
    else:
        assert show(rendered.messages, rendered) == shown.messages
