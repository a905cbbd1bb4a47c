"""The examples in ``docs/prompts.md``: each row gives the messages that the page shows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

from common.prompts.messages import Rendered, render_messages
from common.spec.files import read_specs
from producer.datasets import read_dataset
from tests.support.fleet import ROOT

PAGE = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")


class Shown(NamedTuple):
    """An example of the page: the fields of the run spec, the row, and the messages."""

    spec: str
    row: str
    messages: str


def list_examples() -> Iterator[Shown]:
    spec = row = ""
    for language, text in re.findall(r"```(yaml|json|messages)\n(.*?)```", PAGE, re.DOTALL):
        if language == "yaml":
            spec = text
        elif language == "json":
            row = text
        else:
            yield Shown(spec, row, text)
            spec = row = ""


EXAMPLES = list(list_examples())


def show(rendered: Rendered) -> str:
    def show_part(part: str | int) -> str:
        return part if isinstance(part, str) else f"[{Path(str(rendered.media[part].uri)).name}]"

    return "".join(f"{message.role}: {''.join(map(show_part, message.content))}\n" for message in rendered.messages)


def test_page_has_an_example_of_each_field() -> None:
    prompts = [(yaml.safe_load(shown.spec) or {}).get("prompt") for shown in EXAMPLES]
    fields = {field for prompt in prompts if isinstance(prompt, dict) for field in prompt}
    assert fields == {"template", "system", "suffix", "examples", "turns"}
    assert "lmms_eval" in EXAMPLES[1].spec


@pytest.mark.parametrize("shown", EXAMPLES, ids=range(len(EXAMPLES)))
def test_row_gives_the_messages_of_the_page(tmp_path: Path, shown: Shown) -> None:
    for name in ("a", "b", "shot"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "rows.jsonl").write_text(shown.row)
    (tmp_path / "run.yaml").write_text(f"model: echo\ndatasets: [{{path: rows.jsonl}}]\n{shown.spec}")
    (spec,) = read_specs(tmp_path / "run.yaml")
    (sample,) = read_dataset(spec.datasets[0])
    assert show(render_messages(sample, spec.prompt)) == shown.messages
