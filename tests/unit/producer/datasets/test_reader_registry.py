"""The registry finds readers by format or file ending. Other packages can add readers. Errors state the correction."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.spec.models import DatasetSource
from producer.datasets import read_dataset, registry
from producer.datasets.rows import Row

EXAMPLES = Path(__file__).parents[4] / "examples" / "data"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a copy of the registry."""
    monkeypatch.setattr(registry, "_readers", dict(registry._readers))  # noqa: SLF001
    monkeypatch.setattr(registry, "_formats_by_ending", dict(registry._formats_by_ending))  # noqa: SLF001


def write(path: Path, content: str) -> DatasetSource:
    path.write_text(content)
    return DatasetSource(path=str(path))


def read_words(source: DatasetSource) -> Iterator[Row]:
    for number, word in enumerate(Path(source.path).read_text().split()):
        yield Row(number, 1, word.encode(), fields={"question": word})


@pytest.mark.parametrize("name", ["set.jsonl", "set.NDJSON"])
def test_reader_is_chosen_by_file_ending(tmp_path: Path, name: str) -> None:
    assert [sample.question for sample in read_dataset(write(tmp_path / name, '{"question": "Q?"}'))] == ["Q?"]


def test_format_overrides_file_ending(tmp_path: Path) -> None:
    source = write(tmp_path / "set.tsv", '{"question": "Q?"}').model_copy(update={"format": "jsonl"})
    assert [sample.question for sample in read_dataset(source)] == ["Q?"]


def test_registered_reader_supports_limit_and_sample_id(tmp_path: Path) -> None:
    registry.register_reader("words", endings=(".words.jsonl",))(read_words)
    source = write(tmp_path / "set.words.jsonl", "a b a c")
    samples = list(read_dataset(source.model_copy(update={"limit": 3})))
    assert [sample.question for sample in samples] == ["a", "b", "a"]
    assert samples[0].sample_id == samples[2].sample_id


def test_format_or_ending_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="two readers are registered for the format 'jsonl'"):
        registry.register_reader("jsonl")(read_words)
    with pytest.raises(ConfigError, match=r"files ending in \.tsv are already read as 'vlmeval_tsv'"):
        registry.register_reader("words", endings=(".tsv",))(read_words)


def test_unknown_format_error_lists_known_formats(tmp_path: Path) -> None:
    source = write(tmp_path / "set.x", "")
    with pytest.raises(
        ConfigError,
        match=r"no reader for files like .*set\.x; give its format: NAME; known formats: .*csv, .*jsonl, .*vlmeval_tsv",
    ):
        read_dataset(source)
    with pytest.raises(
        ConfigError, match=r"unknown format 'jsnl'; did you mean 'jsonl'\?; known formats: .*csv, .*jsonl, .*vlmeval_tsv"
    ):
        read_dataset(source.model_copy(update={"format": "jsnl"}))


def test_unreadable_file_fails_before_first_sample(tmp_path: Path) -> None:
    (tmp_path / "folder.tsv").mkdir()
    for name in ("missing.jsonl", "folder.tsv"):
        with pytest.raises(ConfigError, match=rf"path: .*{name} cannot be read \(.*\); expected a file"):
            read_dataset(DatasetSource(path=str(tmp_path / name)))


def test_entry_point_of_other_package_adds_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = """
from producer.datasets.registry import register_reader
from producer.datasets.rows import Row
register_reader("extra", endings=(".extra",))(lambda source: iter([Row(0, 1, b"", fields={"question": "Q?"})]))
"""
    (tmp_path / "fleet_extra_reader.py").write_text(plugin)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [EntryPoint("extra", "fleet_extra_reader", registry.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.ENTRY_POINT_GROUP else [])
    assert [sample.question for sample in read_dataset(write(tmp_path / "set.extra", "x"))] == ["Q?"]


def test_broken_entry_point_error_names_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("extra", "fleet_reader_that_is_missing", registry.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.ENTRY_POINT_GROUP else [])
    with pytest.raises(ConfigError, match=r"reader 'extra' \(fleet_reader_that_is_missing\) of another package does not load"):
        read_dataset(write(tmp_path / "set.extra", "x"))
    assert len(list(read_dataset(write(tmp_path / "set.jsonl", "{}\n")))) == 1


@pytest.mark.parametrize("name", ["digits.tsv", "shapes.jsonl"])
def test_example_datasets_have_no_faults(name: str) -> None:
    samples = list(read_dataset(DatasetSource(path=str(EXAMPLES / name))))
    assert [sample.fault for sample in samples if sample.fault] == []
    assert all(sample.media and sample.question for sample in samples)
    assert len({sample.sample_id for sample in samples}) == len(samples)
