"""The examples in the documentation work: specs and profiles are valid, rows have no faults, and commands exist."""

import re
from contextlib import suppress
from pathlib import Path

import click
import pytest
import yaml

from common.answers.validators import check_validators
from common.settings import Settings
from common.spec.dataset_files import is_hub
from common.spec.files import read_profile, read_specs
from common.spec.models import DatasetSource
from producer.cli import cli as producer
from producer.datasets import read_dataset
from producer.datasets.survey import survey_dataset
from producer.planning.requests import render_samples
from tests.support import doc_examples
from tests.support.doc_examples import (
    PAGES,
    complete_spec,
    list_blocks,
    list_commands,
    list_mentions,
    write_dataset,
    write_pictures,
)
from tests.support.fleet import ROOT
from workers.cli import cli as workers

TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [(page, block) for page, text in TEXTS.items() for block in list_blocks(text, "yaml")]
SPECS = [(page, block) for page, block in BLOCKS if not re.search(r"^engine:", block, re.MULTILINE)]
PROFILES = [block for page, block in BLOCKS if (page, block) not in SPECS]
SOURCES = [f"datasets: [{source}]" for text in TEXTS.values() for source in doc_examples.list_inline_sources(text)]
PROMPTS = [prompt for text in TEXTS.values() for prompt in doc_examples.list_inline_prompts(text)]
ROWS = [line for text in TEXTS.values() for block in list_blocks(text, "json") for line in block.splitlines() if line.strip()]
# docs/bad-input.md shows mistakes
ALL_TEXTS = [page.read_text("utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if page.stem != "bad-input"]
COMMANDS = sorted({tuple(words) for text in ALL_TEXTS for words in list_commands(text)})
MENTIONS = sorted({tuple(words) for text in ALL_TEXTS for words in list_mentions(text)})
VALIDATORS = sorted(
    {found for text in TEXTS.values() for found in re.findall(r"`(\{(?:max_words|json_schema|regex): [^`]+\})`", text)}
)
RUN_ID = "tiny-1f0c92b4d7aa"


def parse_command(words: tuple[str, ...]) -> None:
    program, name, *arguments = [RUN_ID if word == "RUN" else word for word in words]
    {"producer": producer, "workers": workers}[program].commands[name].make_context(name, arguments)


@pytest.mark.parametrize("block", [*(block for _, block in SPECS), *SOURCES, *PROMPTS])
def test_spec_is_read_and_its_rows_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str) -> None:
    monkeypatch.chdir(ROOT)
    block = block.replace("s3://bucket/", "bucket/")  # tests/contract/test_remote_datasets.py reads objects like local files
    spec = complete_spec(block)
    write_pictures(tmp_path, block)
    for source in spec["datasets"]:
        if not isinstance(source["path"], str) or not (ROOT / source["path"]).exists():
            write_dataset(tmp_path, source)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(spec))
    for run in read_specs(tmp_path / "run.yaml"):
        sources = [survey_dataset(source).source for source in run.datasets if not is_hub(source.path)]
        samples = list(render_samples((sample for source in sources for sample in read_dataset(source)), run))
        assert len(samples) >= len(sources)
        assert [sample.fault for sample in samples if sample.fault] == []


@pytest.mark.parametrize("block", PROFILES)
def test_profile_is_read(tmp_path: Path, block: str) -> None:
    (tmp_path / "mine.yaml").write_text(block)
    assert read_profile("mine.yaml", beside=tmp_path).weights


@pytest.mark.parametrize("row", ROWS)
def test_row_has_no_fault(tmp_path: Path, row: str) -> None:
    write_pictures(tmp_path, row)
    (tmp_path / "rows.jsonl").write_text(row)
    (sample,) = read_dataset(survey_dataset(DatasetSource(path=str(tmp_path / "rows.jsonl"), media_root=str(tmp_path))).source)
    assert sample.fault is None


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_and_its_options_exist(words: tuple[str, ...]) -> None:
    parse_command(words)


@pytest.mark.parametrize("words", MENTIONS, ids=" ".join)
def test_mentioned_command_exists(words: tuple[str, ...]) -> None:
    with suppress(click.MissingParameter):
        parse_command(words)


@pytest.mark.parametrize("entry", VALIDATORS)
def test_validator_with_argument_is_accepted(entry: str) -> None:
    check_validators((yaml.safe_load(entry),))


def test_settings_of_the_pages_exist() -> None:
    named = {name for text in ALL_TEXTS for name in re.findall(r"\bFLEET_[A-Z_]+\b", text)}
    assert named <= {f"FLEET_{name}".upper() for name in Settings.model_fields}


def test_pages_have_examples_of_each_kind() -> None:
    assert min(len(SPECS), len(ROWS), len(COMMANDS), len(SOURCES), len(PROMPTS)) > 5
    assert len(VALIDATORS) == 3
    assert (len(PROFILES), {page for page, _ in SPECS}) == (1, {"README.md", "docs/datasets.md", "docs/prompts.md"})
