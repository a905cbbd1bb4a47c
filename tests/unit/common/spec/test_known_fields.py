"""An error about an unknown field lists the known fields, at any depth of a spec."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from common.errors import ConfigError
from common.spec.files import check, read_specs
from common.spec.models import Spec


class Leaf(Spec):
    size: int = 0


class Other(Spec):
    colour: str = ""


class Tree(Spec):
    one: Leaf = Leaf()
    maybe: Leaf | None = None
    either: Leaf | Other = Leaf()
    fixed: tuple[Leaf, Other] | None = None
    many: tuple[Leaf, ...] = ()
    listed: list[Leaf | int] = Field(default_factory=list)
    named: dict[str, Leaf] = Field(default_factory=dict)
    deep: dict[str, list[tuple[Leaf | None, ...]]] = Field(default_factory=dict)
    choice: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ({"one": {"sise": 1}}, ["one.sise: size"]),
        ({"maybe": {"sise": 1}}, ["maybe.sise: size"]),
        ({"many": [{}, {"sise": 1}]}, ["many.1.sise: size"]),
        ({"named": {"oak": {"sise": 1}}}, ["named.oak.sise: size"]),
        ({"named": {"one": {"sise": 1}}}, ["named.one.sise: size"]),
        ({"fixed": [{"sise": 1}, {}]}, ["fixed.0.sise: colour, size"]),
        ({"either": {"sise": 1}}, ["either.sise: size", "either.sise: colour"]),
        ({"deep": {"a": [[None, {"sise": 1}]]}}, ["deep.a.0.1.sise: size"]),
        ({"listed": [3, {"sise": 1}]}, ["listed.1.sise: size"]),
    ],
)
def test_known_fields_are_found_in_nested_types(raw: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Tree, raw, "tree.yaml", at="wood")
    unknown = [line for line in str(caught.value).splitlines() if "unknown field" in line]
    assert [re.sub(r"tree\.yaml: wood\.(\S+:) .*known fields: (.*)", r"\1 \2", line) for line in unknown] == messages


def test_check_returns_the_valid_model() -> None:
    assert check(Tree, {"either": {"colour": "red"}}, "tree.yaml").either == Other(colour="red")


@pytest.mark.parametrize(
    "section", ["datasets: [{path: rows.jsonl, pathh: x}]", "datasets: [{path: rows.jsonl}]\nprompt: {examples: [{pathh: x}]}"]
)
def test_fields_of_resolved_specs_are_not_suggested(tmp_path: Path, section: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"model: echo\n{section}\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError) as caught:
        read_specs(path)
    known = [line.partition("known fields: ")[2].split(", ") for line in str(caught.value).splitlines()]
    assert any("path" in names or "question" in names for names in known)
    assert not {"digest", "digests", "files", "found_kind", "media_digest"} & {name for names in known for name in names}
