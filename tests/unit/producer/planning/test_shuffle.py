"""The shuffle keeps every sample and finds duplicates. Its order depends only on the seed and the samples."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, IntegrityError
from common.records import DatasetCounts, Fault, Media, Sample, Twin
from producer.planning.long_lines import LEAST_BYTES, read_line
from producer.planning.shuffle import Counts, Spread, estimate_input_bytes
from tests.support import planning
from tests.support.planning import make_sample, make_samples

# A row consists of its dataset, its group and its content. Two equal rows are duplicates.
Row = tuple[str, int, int]
rows = st.lists(st.tuples(st.sampled_from(["one", "two"]), st.integers(0, 3), st.integers(0, 3)), max_size=40)


def to_samples(given_rows: Iterable[Row]) -> list[Sample]:
    """Return one sample per row. Its ``index`` is the position of the row."""
    names = [(f"g{group}-{content}", f"g{group}", dataset) for dataset, group, content in given_rows]
    return [
        Sample(sample_id=name, request_digest=name, dataset=dataset, row=place, index=place, group=group, question="?")
        for place, (name, group, dataset) in enumerate(names)
    ]


def shuffle(
    samples: Iterable[Sample], *, seed: int = 0, datasets: tuple[str, ...] = ("one", "two")
) -> tuple[list[list[Spread]], Counts]:
    counts = Counts(list(datasets))
    with tempfile.TemporaryDirectory() as scratch:
        groups = list(planning.shuffle(samples, counts, seed=seed, scratch=Path(scratch)))
        assert list(Path(scratch).iterdir()) == []
    return groups, counts


def read_samples(groups: Iterable[Iterable[Spread]]) -> list[Sample]:
    return [Sample.model_validate_json(read_line(entry.line)) for entry in chain.from_iterable(groups)]


def key_of(sample: Sample) -> tuple[str, str]:
    return sample.dataset, sample.sample_id


@given(rows)
@settings(deadline=None)
def test_shuffle_keeps_first_of_duplicate_rows(given_rows: list[Row]) -> None:
    samples = to_samples(given_rows)
    groups, counts = shuffle(samples)
    first_rows: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        first_rows.setdefault(key_of(sample), sample)
    shuffled = read_samples(groups)
    assert {key_of(sample): sample.model_copy(update={"twins": ()}) for sample in shuffled} == first_rows
    assert len(shuffled) == len(first_rows)
    found, unique = Counter(sample.dataset for sample in samples), Counter(dataset for dataset, _ in first_rows)
    assert counts.to_records() == tuple(
        DatasetCounts(name=name, rows=found[name], unique=unique[name], duplicates=found[name] - unique[name])
        for name in ("one", "two")
    )


@given(rows)
@settings(deadline=None)
def test_every_row_is_a_sample_or_twin(given_rows: list[Row]) -> None:
    samples = to_samples(given_rows)
    shuffled = read_samples(shuffle(samples)[0])
    of_sample = {(sample.row, key_of(sample)) for sample in shuffled}
    of_twins = {(twin.row, key_of(sample)) for sample in shuffled for twin in sample.twins}
    assert of_sample | of_twins == {(sample.row, key_of(sample)) for sample in samples}
    assert len(of_sample) + len(of_twins) == len(samples)
    for sample in shuffled:
        assert [sample.row, *(twin.row for twin in sample.twins)] == sorted({sample.row, *(twin.row for twin in sample.twins)})


def test_twins_keep_their_targets_and_metadata() -> None:
    different: list[dict[str, Any]] = [{"target": ("x",)}, {"target": ("y",), "metadata": {"split": "test"}}, {"target": ()}]
    rows = [
        make_sample(number, row=number, sample_id=f"{number}", group=f"{number}", request_digest="same", **fields)
        for number, fields in enumerate(different)
    ]
    groups, counts = shuffle(rows, datasets=("rows",))
    (sample,) = read_samples(groups)
    assert (sample.row, sample.target) == (0, ("x",))
    assert sample.twins == (Twin(row=1, index=1, target=("y",), metadata={"split": "test"}), Twin(row=2, index=2))
    assert counts.to_records() == (DatasetCounts(name="rows", rows=3, unique=1, duplicates=2),)
    assert counts.rows == [3]


def test_twins_keep_the_names_of_their_files() -> None:
    named = [(Media(uri="/a.png", digest="same"),), (Media(uri="/b.png", digest="same"),), (Media(data="AAAA", digest="same"),)]
    rows = [
        make_sample(number, row=number, sample_id=f"{number}", request_digest="same", media=media)
        for number, media in enumerate(named)
    ]
    groups, _ = shuffle(rows, datasets=("rows",))
    (sample,) = read_samples(groups)
    assert [twin.media for twin in sample.twins] == [named[1], ()]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "two"},
        {"request_digest": "other"},
        {"kind": "number"},
        {"options": {"A": "x"}},
        {"options": {"B": "y", "A": "x"}},
        {"fault": Fault(code="bad_row", message="not JSON")},
    ],
)
def test_rows_that_ask_differently_are_not_merged(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"dataset": "one", "request_digest": "same", "options": {"A": "x", "B": "y"}}
    first = Sample(sample_id="1", index=1, question="?", **fields)
    second = Sample(sample_id="2", index=2, question="?", **(fields | change))
    groups, _ = shuffle([first, second])
    assert {sample.index: sample.twins for sample in read_samples(groups)} == {"1": (), "2": ()}


def test_sample_without_request_digest_is_an_error() -> None:
    """Planning does not render samples."""
    with pytest.raises(
        IntegrityError, match=r"row 7 of dataset 'one' has no digest of its request; pass samples to .*render_samples"
    ):
        shuffle([make_sample(1, dataset="one"), make_sample(7, dataset="one", request_digest=None)])


def test_samples_that_ask_differently_have_different_ids() -> None:
    """A prompt with metadata, or relative paths of several folders, gives rows of one id different requests."""
    digests = ["x", "y", "x", "z"]
    rows = [
        Sample(sample_id="id", dataset="one", row=at, index=at, question="?", request_digest=one) for at, one in enumerate(digests)
    ]
    fault = Fault(code="bad_field", message="no topic")
    rows.append(Sample(sample_id="id", dataset="one", row=4, index=4, question="?", fault=fault))
    groups, counts = shuffle(rows)
    samples = read_samples(groups)
    assert {sample.index: [twin.index for twin in sample.twins] for sample in samples} == {"0": ["2"], "1": [], "3": [], "4": []}
    assert [entry.sample_id.decode() for group in groups for entry in group] == [sample.sample_id for sample in samples]
    assert samples[0].sample_id == "id"
    assert len({sample.sample_id for sample in samples}) == counts.unique[0] == 4
    again, _ = shuffle(rows[1:])
    assert len({entry.sample_id for group in again for entry in group}) == 4


def test_dataset_of_faulty_rows_is_refused() -> None:
    faulty = [make_sample(number, dataset="two", fault=Fault(code="bad_row", message=f"row {number}")) for number in range(3)]
    with pytest.raises(ConfigError, match=r"'two': all of its rows are faulty \(3\)\. The first fault: bad_row: row 0\."):
        shuffle([make_sample(1, dataset="one"), *faulty])


@given(rows)
@settings(deadline=None)
def test_groups_keep_their_rows_in_order(given_rows: list[Row]) -> None:
    groups, _ = shuffle(to_samples(given_rows))
    names = []
    for group in groups:
        samples = read_samples([group])
        [name] = {(sample.dataset, sample.group) for sample in samples}
        names.append(name)
        assert [int(sample.index) for sample in samples] == sorted(int(sample.index) for sample in samples)
    assert len(set(names)) == len(names) == len({(dataset, group) for dataset, group, _ in given_rows})


@given(rows, st.randoms(use_true_random=False), st.integers(0, 2**31))
@settings(deadline=None)
def test_order_of_groups_depends_only_on_seed(given_rows: list[Row], random: Random, seed: int) -> None:
    permuted = random.sample(given_rows, len(given_rows))
    groups, _ = shuffle(to_samples(given_rows), seed=seed)
    others, _ = shuffle(to_samples(permuted), seed=seed, datasets=("two", "one"))
    assert [{entry.sample_id for entry in group} for group in groups] == [{entry.sample_id for entry in group} for group in others]


@given(rows)
@settings(deadline=None)
def test_shuffle_ignores_the_order_of_files(given_rows: list[Row]) -> None:
    """Only the order of the rows of one file within one group matters."""
    samples = to_samples(given_rows)
    by_file = [sample for name in ("two", "one") for sample in samples if sample.dataset == name]
    mixed, _ = shuffle(samples)
    sequential, _ = shuffle(by_file)
    assert [entry.line for group in mixed for entry in group] == [entry.line for group in sequential for entry in group]


def test_different_seed_gives_different_order() -> None:
    samples = make_samples(50)
    first, again, other = (
        [sample.index for sample in read_samples(shuffle(samples, seed=seed, datasets=("rows",))[0])] for seed in (1, 1, 2)
    )
    assert first == again
    assert sorted(first) == sorted(other)
    assert first != other
    assert first != list(map(str, range(50)))


def test_samples_of_datasets_are_mixed() -> None:
    samples = [*make_samples(100, dataset="one"), *make_samples(100, dataset="two")]
    half = [sample.dataset for sample in read_samples(shuffle(samples)[0])][:100]
    assert 30 < half.count("one") < 70


def test_groups_of_different_datasets_are_separate() -> None:
    samples = [make_sample(number, dataset=dataset, group="page 7") for number in range(5) for dataset in ("one", "two")]
    groups, _ = shuffle(samples)
    assert [len(group) for group in groups] == [5, 5]


def test_faults_are_counted_and_text_is_unchanged() -> None:
    odd = make_sample(1, question="line\r\nbreak \u2028 \x85 \x0b 中文 \U0001f600", metadata={"deep": [{"a": None}]})
    faulty = make_sample(2, fault=Fault(code="bad_row", message="not JSON"))
    groups, counts = shuffle([odd, faulty], datasets=("rows",))
    assert {sample.index: sample for sample in read_samples(groups)} == {"1": odd, "2": faulty}
    assert counts.faults == {"bad_row": 1}
    lines = [read_line(entry.line) for group in groups for entry in group]
    assert all(line.count(b"\n") == 1 and line.splitlines() == [line[:-1]] for line in lines)


@pytest.mark.parametrize("length", [LEAST_BYTES // 2, LEAST_BYTES, 3 * LEAST_BYTES])
def test_long_lines_are_merged_and_shuffled(tmp_path: Path, length: int) -> None:
    rows = [
        make_sample(number, group="one" if number % 3 else "", media=(Media(data="A" * length),), request_digest=f"{number % 4}")
        for number in range(12)
    ]
    groups = list(planning.shuffle(rows, Counts(["rows"]), seed=0, scratch=tmp_path))
    assert all(isinstance(entry.line, bytes) == (length < LEAST_BYTES) for group in groups for entry in group)
    shuffled = sorted(read_samples(groups), key=lambda sample: sample.sample_id)
    assert [sample.model_copy(update={"twins": ()}) for sample in shuffled] == rows[:4]
    assert [[twin.index for twin in sample.twins] for sample in shuffled] == [[str(at + 4), str(at + 8)] for at in range(4)]


@pytest.mark.parametrize(
    ("media", "elsewhere"),
    [
        ((), 0),
        ((Media(data="QUJD"),), 0),
        ((Media(uri="rows.tsv", offset=10, length=70_000, encoding="base64"),), 70_000),
        ((Media(uri="a.png"), Media(uri="b.png")), 400_000),
    ],
)
def test_input_estimate_counts_line_and_external_media(media: tuple[Media, ...], elsewhere: int) -> None:
    assert estimate_input_bytes(make_sample(1, media=media), b"x" * 100) == 100 + elsewhere
