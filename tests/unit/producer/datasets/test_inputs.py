"""Small inputs of all common kinds (``tests/support/inputs``): the sample or the fault of each row."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from common.records import Sample
from producer.planning.long_lines import read_line
from producer.planning.requests import render_samples
from producer.planning.shuffle import Counts
from tests.support.datasets import read_surveyed
from tests.support.fleet import ROOT
from tests.support.planning import make_spec, shuffle

INPUTS = ROOT / "tests" / "support" / "inputs"


def read(name: str) -> dict[str, Sample]:
    return {sample.index: sample for sample in read_surveyed(INPUTS / name)}


def name_media(sample: Sample) -> list[str]:
    """Return the names of a sample's images by their digest. This also finds the names of inline images."""
    names = {media.digest: Path(media.uri or "").name for one in read("markers.jsonl").values() for media in one.media}
    assert sorted(names.values()) == ["blue.png", "green.png", "red.png"]
    return [names[media.digest] for media in sample.media]


def show_messages(sample: Sample) -> list[tuple[str, list[str]]]:
    names = name_media(sample)
    return [(one.role, [names[part] if isinstance(part, int) else part for part in one.content]) for one in sample.messages]


def test_llava_rows_are_conversations() -> None:
    samples = read("llava.jsonl")
    assert show_messages(samples["a"]) == [("user", ["red.png", "What colour is it?"])]
    assert show_messages(samples["b"]) == [
        ("user", ["What colour is it?", "green.png"]),
        ("assistant", ["green"]),
        ("user", ["Is it round?"]),
    ]
    assert [samples[name].target for name in "ab"] == [("red",), ("No",)]
    assert [samples[name].fault for name in "ab"] == [None, None]


def test_openai_messages_are_asked_as_written() -> None:
    sample = read("messages.jsonl")["a"]
    assert show_messages(sample) == [
        ("system", ["Answer in one word."]),
        ("user", ["First this:", "red.png", "then this:", "blue.png", "Which came first?"]),
    ]
    assert (sample.target, sample.fault) == (("red",), None)


def test_media_column_under_other_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"column 'img' holds media in 3 rows.*expected fields: \{image: img\}"):
        read("other_keys.jsonl")
    mapped = read_surveyed(INPUTS / "other_keys.jsonl", fields={"image": "img"})
    assert [name_media(sample) for sample in mapped] == [["red.png"], ["green.png"], ["blue.png"]]
    assert [sample.media for sample in read_surveyed(INPUTS / "other_keys.jsonl", ignore=["img"])] == [(), (), ()]


def test_hugging_face_rows_have_images_and_options() -> None:
    samples = read("hf_rows.jsonl")
    assert [name_media(samples[name]) for name in "pq"] == [["red.png"], ["green.png"]]
    assert [(samples[name].options, samples[name].target) for name in "rs"] == [({"A": "cat", "B": "dog"}, ("B",))] * 2
    assert {sample.fault for sample in samples.values()} == {None}


def test_twins_are_asked_once(tmp_path: Path) -> None:
    counts = Counts(["twins"])
    samples = render_samples(read("twins.jsonl").values(), make_spec())
    ((entry,),) = shuffle(samples, counts, seed=0, scratch=tmp_path)
    sample = Sample.model_validate_json(read_line(entry.line))
    assert (sample.index, sample.metadata) == ("1", {"split": "train"})
    assert [(twin.row, twin.index, twin.metadata) for twin in sample.twins] == [(1, "2", {"split": "test"})]


def test_option_texts_are_kept_as_written() -> None:
    samples = read("options.tsv")
    assert [list(samples[name].options.values()) for name in "012"] == [
        ["None", "Two", "One"],
        ["007", "NA", "null"],
        ["0.50", "1e3", "nan"],
    ]
    assert [name_media(samples[name]) for name in "012"] == [["red.png"]] * 3


def test_choices_column_of_a_tsv_gives_letters() -> None:
    samples = read("choices.tsv")
    assert {sample.kind for sample in samples.values()} == {"multiple_choice"}
    assert [(samples[name].options, samples[name].target) for name in "01"] == [
        ({"A": "red", "B": "blue"}, ("A",)),
        ({"A": "red", "B": "blue"}, ("B",)),
    ]


def test_list_of_turns_is_a_conversation_if_turns_are_asked() -> None:
    (sample,) = read_surveyed(INPUTS / "turns.tsv", asks_turns=True)
    assert show_messages(sample) == [
        ("user", ["red.png", "What colour is it?"]),
        ("assistant", ["red"]),
        ("user", ["And is it round?"]),
    ]
    assert (sample.target, sample.kind, sample.fault) == (("No",), "yes_no", None)


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        (
            "turns.tsv",
            "bad_field",
            "turns.tsv: line 2: field 'question': found a list of 2 turns; expected one question",
        ),
        ("video.tsv", "bad_media", "video.tsv: line 2: field 'video': found 'clip_000', which is not a file in "),
    ],
)
def test_row_that_cannot_be_asked_is_a_named_fault(name: str, code: str, message: str, tmp_path: Path) -> None:
    sample = read(name)["0"]
    assert sample.fault is not None
    assert sample.fault.code == code
    assert message in sample.fault.message
    with pytest.raises(ConfigError, match="all of its rows are faulty"):
        list(shuffle([sample], Counts([sample.dataset]), seed=0, scratch=tmp_path))
