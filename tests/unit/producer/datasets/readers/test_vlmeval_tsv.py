"""VLMEvalKit TSV: columns, kinds, faulty rows, and images in the row, in another row or in a separate file."""

import csv
import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.records import Media, Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from tests.support.datasets import check_memory_is_bounded, inline, make_base64


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "set.tsv"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


# Fields that planning and later waves set, and the identity.
LATER = {
    "sample_id",
    "group",
    "messages",
    "request_digest",
    "twins",
    "made_before",
    "violations_before",
    "turn_targets",
    "turn_before",
}


def read(path: Path, **source: Any) -> list[Sample]:
    return list(read_dataset(DatasetSource(path=str(path), **source)))


def read_bytes(folder: Path, content: bytes, **source: Any) -> list[Sample]:
    (folder / "set.tsv").write_bytes(content)
    return read(folder / "set.tsv", **source)


def load(media: Media) -> str:
    """Return the base64 text of a media item, inline or from its byte range."""
    if media.data is not None:
        return media.data
    assert media.uri is not None
    assert media.offset is not None
    assert media.length is not None
    return Path(media.uri).read_bytes()[media.offset : media.offset + media.length].decode()


def message_of(sample: Sample, code: str) -> str:
    assert sample.fault is not None
    assert sample.fault.code == code
    return sample.fault.message


SMALL, LARGE = make_base64(300), make_base64(9000, 1)


def test_row_becomes_a_sample(tmp_path: Path) -> None:
    row = {"index": 3, "image": SMALL, "question": "Which\n\tone?", "hint": "h", "A": "x", "B": "y", "C": "", "answer": "B"}
    (sample,) = read(
        write(tmp_path, row | {"category": "k", "l2-category": "l", "split": "dev", "g_index": 3, "empty": ""}), name="demo"
    )
    assert sample.model_dump(exclude=LATER) == {
        "dataset": "demo",
        "row": 0,
        "index": "3",
        "kind": "multiple_choice",
        "question": "Which\n\tone?",
        "hint": "h",
        "options": {"A": "x", "B": "y"},
        "target": ("B",),
        "media": (inline(SMALL).model_dump(),),
        "metadata": {"category": "k", "l2-category": "l", "split": "dev", "g_index": "3"},
        "fault": None,
    }


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"A": "x", "B": "y", "answer": "A"}, "multiple_choice"),
        ({"A": "", "B": " ", "answer": "Yes"}, "yes_no"),
        ({"A": "", "B": "", "answer": "red"}, "short_text"),
        ({"answer": "No"}, "yes_no"),
        ({"answer": "['yes', 'no']"}, "yes_no"),
        ({"answer": "7"}, "short_text"),
        ({"answer": ""}, "short_text"),
        ({}, "short_text"),
        ({"A": "a letter without B is metadata", "answer": "x"}, "short_text"),
        ({"answer": "7", "kind": "number"}, "number"),
        ({"answer": "7", "kind": "hard"}, "short_text"),
    ],
)
def test_kind_is_derived_for_each_row(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    (sample,) = read(write(tmp_path, {"index": 0, "question": "Q?", **row}))
    assert (sample.kind, sample.fault) == (kind, None)


def test_kind_of_source_overrides_kind_of_row(tmp_path: Path) -> None:
    (sample,) = read(write(tmp_path, {"question": "Q?", "answer": "Yes"}), kind="short_text")
    assert sample.kind == "short_text"


def test_invalid_kind_is_fault_only_if_mapped(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "Q?", "kind": "hard"})
    assert read(path)[0].metadata == {"kind": "hard"}
    assert "expected one of multiple_choice" in message_of(read(path, fields={"kind": "kind"})[0], "bad_field")


@pytest.mark.parametrize(
    ("cell", "target"),
    [
        ("red", ("red",)),
        ("['red', 'dark red']", ("red", "dark red")),
        (r"['\d', '[x]']", (r"\d", "[x]")),
        ("[0, 1]", ("[0, 1]",)),
        ("[red", ("[red",)),
        ("[red]", ("[red]",)),
        ("[]", ("[]",)),
    ],
)
def test_answer_is_text_or_list_literal(tmp_path: Path, cell: str, target: tuple[str, ...]) -> None:
    assert read(write(tmp_path, {"question": "Q?", "answer": cell}))[0].target == target


def test_index_is_text_or_row_number(tmp_path: Path) -> None:
    indexes = ["7", "a7", "1" * 19, "", "²"]
    samples = read(write(tmp_path, *({"index": index, "question": "Q?"} for index in indexes)))
    assert [sample.index for sample in samples] == ["7", "a7", "1" * 19, "3", "²"]
    assert [sample.index for sample in read(write(tmp_path, {"question": "1?"}, {"question": "2?"}))] == ["0", "1"]


def test_mapped_name_overrides_vlmevalkit_name_and_alias(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "x", "index": 5, "question": "Q?", "target": "t", "answer": "a", "other": "o"})
    (plain,), (mapped,) = read(path), read(path, fields={"id": "id", "target": "other"})
    assert (plain.index, plain.target, plain.metadata) == ("5", ("a",), {"id": "x", "target": "t", "other": "o"})
    assert (mapped.index, mapped.target, mapped.metadata) == ("x", ("o",), {"index": "5", "target": "t", "answer": "a"})


def test_only_large_images_are_byte_ranges(tmp_path: Path) -> None:
    for image in (SMALL, LARGE):
        (sample,) = read(write(tmp_path, {"question": "ü?", "image": image}))
        assert [load(media) for media in sample.media] == [image]
        assert (sample.media[0].data is None) == (image == LARGE)


@pytest.mark.parametrize("literal", ["['{}', '{}']", '["{}", "{}"]', " [{}, {}]"])
def test_list_literal_is_several_images(tmp_path: Path, literal: str) -> None:
    (sample,) = read(write(tmp_path, {"question": "Q?", "image": literal.format(SMALL, LARGE)}))
    assert [load(media) for media in sample.media] == [SMALL, LARGE]
    assert sample.media[1].encoding == "base64"


def test_quotes_bom_and_crlf_are_ignored(tmp_path: Path) -> None:
    row = f"4\t{LARGE}\tQ?\t{SMALL}"
    plain = read_bytes(tmp_path, f"index\timage\tquestion\tnote\n{row}\n".encode())
    quoted = "\t".join(f'"{cell}"' for cell in row.split("\t"))
    other = read_bytes(tmp_path, f"\ufeffindex\timage\tquestion\tnote\r\n{quoted}\r\n\r\n".encode())
    assert load(other[0].media[0]) == LARGE
    assert [sample.model_copy(update={"media": ()}) for sample in other] == [
        sample.model_copy(update={"media": ()}) for sample in plain
    ]


@pytest.mark.parametrize("image", [SMALL, LARGE])
def test_short_image_text_references_another_row(tmp_path: Path, image: str) -> None:
    rows: list[dict[str, Any]] = [
        {"index": 9, "image": "page é"},
        {"index": "page é", "image": image},
        {"index": 8, "image": '["page é", "7"]'},
        {"index": 7, "image": image},
    ]
    samples = read(write(tmp_path, *({"question": "Q?", **row} for row in rows)))
    assert [[load(media) for media in sample.media] for sample in samples] == [[image], [image], [image, image], [image]]
    assert samples[0].sample_id == samples[1].sample_id == samples[3].sample_id
    assert len({sample.group for sample in samples}) == 2


def test_first_row_of_equal_indexes_is_referenced(tmp_path: Path) -> None:
    rows = [{"index": 1, "image": SMALL}, {"index": 1, "image": LARGE}, {"index": 2, "image": "1"}]
    samples = read(write(tmp_path, *({"question": "Q?", **row} for row in rows)))
    assert samples[2].media == samples[0].media


@pytest.mark.parametrize(
    ("image", "part"),
    [("5", "found '5'; expected base64 text, or the index of another row"), ("1", "found '1', a row without an image")],
)
def test_reference_without_image_is_bad_media(tmp_path: Path, image: str, part: str) -> None:
    samples = read(
        write(tmp_path, *({"index": number, "question": "Q?", "image": text} for number, text in enumerate([image, "0", SMALL])))
    )
    assert message_of(samples[0], "bad_media").startswith(f"set.tsv: line 2: field 'image': {part}")
    assert samples[2].fault is None


@pytest.mark.parametrize("image", ["ä" * 70, "https://h.example/" + "a" * 64, f"data:image/png;base64,{SMALL}"])
def test_image_without_base64_is_bad_media(tmp_path: Path, image: str) -> None:
    (sample,) = read(write(tmp_path, {"index": 0, "question": "Q?", "image": image}))
    assert "expected base64 text" in message_of(sample, "bad_media")


def test_image_path_prefers_the_images_folder(tmp_path: Path) -> None:
    """A file in ``images/<dataset>`` takes precedence over the same path in the media root. The sample id does not change."""
    rows = [{"image_path": "a.png"}, {"image_path": "['b.png', '/abs/c.png']"}, {"image_path": ""}]
    path = write(tmp_path, *({"question": "Q?", **row} for row in rows))
    expected = [[f"{tmp_path}/a.png"], [f"{tmp_path}/b.png", "/abs/c.png"], []]
    before = read(path)
    assert [[media.uri for media in sample.media] for sample in before] == expected
    folder = tmp_path / "images" / "set"
    folder.mkdir(parents=True)
    (folder / "a.png").touch()
    after = read(path)
    assert [[media.uri for media in sample.media] for sample in after] == [[str(folder / "a.png")], *expected[1:]]
    assert [sample.sample_id for sample in after] == [sample.sample_id for sample in before]


def test_image_column_overrides_image_path(tmp_path: Path) -> None:
    rows = [{"image": SMALL, "image_path": "a.png"}, {"image": "", "image_path": "a.png"}]
    samples = read(write(tmp_path, *({"question": "Q?", **row} for row in rows)))
    assert [sample.media for sample in samples] == [(inline(SMALL),), (Media(uri=f"{tmp_path}/a.png"),)]


def test_rotated_rows_are_not_duplicates(tmp_path: Path) -> None:
    """CircularEval rotates the options of a row. Only equal rows are duplicates."""
    row = {"index": 1, "image": SMALL, "question": "Q?", "A": "x", "B": "y", "answer": "A"}
    rotated = row | {"index": 1_000_001, "image": 1, "A": "y", "B": "x", "answer": "B"}
    first, second, third = read(write(tmp_path, row, rotated, row | {"index": 2}))
    assert first.sample_id == third.sample_id != second.sample_id
    assert first.group == second.group == third.group


def test_faulty_rows_keep_readable_fields(tmp_path: Path) -> None:
    content = b'index\tquestion\tcategory\n1\tQ?\n2\tQ?\tk\tmore\n3\t\tk\n\n4\tn\xff\tk\n5\t"two\nlines"\tk\n'
    samples = read_bytes(tmp_path, content)
    assert [sample.index for sample in samples] == ["1", "2", "3", "4", "5"]
    assert message_of(samples[0], "bad_row") == "set.tsv: line 2: found 2 cells; expected 3, as in the header"
    assert message_of(samples[1], "bad_row") == "set.tsv: line 3: found 4 cells; expected 3, as in the header"
    assert message_of(samples[2], "missing_question").startswith("set.tsv: line 4: field 'question': ")
    assert message_of(samples[3], "bad_row") == "set.tsv: line 6: field 'question': not UTF-8 (byte 2 of the cell); expected UTF-8"
    assert (samples[2].metadata, samples[3].metadata) == ({"category": "k"}, {"category": "k"})
    assert (samples[4].question, samples[4].fault) == ("two\nlines", None)


def test_repeated_header_is_a_bad_row(tmp_path: Path) -> None:
    samples = read_bytes(tmp_path, b"index\tquestion\n1\tQ?\nindex\tquestion\n2\tQ!\n")
    assert [sample.fault is None for sample in samples] == [True, False, True]
    assert message_of(samples[1], "bad_row").startswith("set.tsv: line 3: found the header again; expected a row")


def test_header_without_rows_is_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set\.tsv holds no rows; expected at least one"):
        read_bytes(tmp_path, b"index\tquestion\n")


def test_unclosed_quote_is_one_bad_row(tmp_path: Path) -> None:
    samples = read_bytes(tmp_path, b'index\tquestion\n1\t"Q?\n2\tQ?\n3\tQ?\n')
    assert "an unclosed quote" in message_of(samples[0], "bad_row")
    assert [(sample.index, sample.fault) for sample in samples[1:]] == [("2", None), ("3", None)]


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (b"", {}, "the file is empty; expected a header"),
        (b"index\tquestoin\n", {}, r"has no column 'question'; did you mean 'questoin'\?"),
        (b"index\tquestion\tquestion\n", {}, "two columns are called 'question'"),
        (b"index\tquesti\xffn\n", {}, "the header is not UTF-8"),
        (b"index\tquestion\tanswer\n", {"target": "anwser"}, r"fields.target: .* has no field 'anwser'; did you mean 'answer'\?"),
        (b"index\tquestion\n", {"qid": "index"}, "'qid' is not a known field name"),
    ],
)
def test_invalid_header_is_config_error(tmp_path: Path, content: bytes, fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_bytes(tmp_path, content, fields=fields)


def test_memory_is_independent_of_file_size(tmp_path: Path) -> None:
    image = make_base64(2**21)
    path = tmp_path / "set.tsv"
    with path.open("w") as stream:
        stream.write("index\timage\tquestion\n")
        for number in range(20):
            stream.write(f"{number}\t{image if number else 19}\t{number}?\n")
    check_memory_is_bounded(path)


def test_images_of_a_compressed_file_are_not_kept(tmp_path: Path) -> None:
    lines = [f"{number}\t{make_base64(2**20, number)}\tQ?\n" for number in range(20)]
    lines += [f"x{number}\t{number}\tQ?\n" for number in range(20)]
    path = tmp_path / "set.tsv.gz"
    path.write_bytes(gzip.compress(("index\timage\tquestion\n" + "".join(lines)).encode(), 1))
    del lines
    tracemalloc.start()
    try:
        found = sum(len(sample.media) for sample in read_dataset(DatasetSource(path=str(path))))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == 40
    assert peak_bytes < 15 * 2**20


def test_choices_column_gives_options(tmp_path: Path) -> None:
    rows = [
        {"question": "Which?", "choices": "['0.50', 'None']", "answer": "None"},
        {"question": "Why?", "choices": "", "answer": "x"},
    ]
    first, second = read(write(tmp_path, *rows))
    assert (first.kind, first.options, first.target) == ("multiple_choice", {"A": "0.50", "B": "None"}, ("B",))
    assert (second.kind, second.options, second.metadata) == ("short_text", {}, {})


def test_letter_columns_take_precedence_over_choices(tmp_path: Path) -> None:
    (sample,) = read(write(tmp_path, {"question": "Which?", "A": "x", "B": "y", "choices": "['p', 'q']", "answer": "B"}))
    assert (sample.options, sample.target, sample.metadata) == ({"A": "x", "B": "y"}, ("B",), {"choices": "['p', 'q']"})


def test_mapping_does_not_hide_letter_columns(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "Which?", "A": "x", "B": "y", "C": "z", "choices": "['p', 'q']", "answer": "q"})
    with pytest.raises(ConfigError, match=r"fields.options maps 'choices', .*option columns A, B, C;.* ignore: \[A, B, C\]"):
        read(path, fields={"options": "choices"})
    (sample,) = read(path, fields={"options": "choices"}, ignore=["A", "B", "C"])
    assert (sample.options, sample.target, sample.metadata) == ({"A": "p", "B": "q"}, ("B",), {})


@pytest.mark.parametrize(
    ("row", "uris", "metadata"),
    [
        ({"video": "a.mp4"}, ["a.mp4"], {}),
        ({"video": "clip_0", "video_path": "./video/a.mp4"}, ["./video/a.mp4"], {"video": "clip_0"}),
        ({"video": "a.mp4", "video_path": ""}, ["a.mp4"], {}),
        ({"video_path": "['a.mp4', 'b.mp4']"}, ["a.mp4", "b.mp4"], {}),
        ({"video": "https://h/watch"}, ["https://h/watch"], {}),
        ({"video": "clip_1"}, ["clip_1"], {}),
        ({"video": "", "video_path": ""}, [], {}),
    ],
)
def test_video_columns_become_media(tmp_path: Path, row: dict[str, str], uris: list[str], metadata: dict[str, str]) -> None:
    (tmp_path / "clip_1").write_bytes(b"a video without a file ending")
    (sample,) = read(write(tmp_path, {"question": "What?", **row}))
    assert sample.media == tuple(Media(kind="video", uri=uri if "://" in uri else f"{tmp_path}/{uri}") for uri in uris)
    assert (sample.metadata, sample.fault) == (metadata, None)


def test_clip_id_without_a_file_is_bad_media(tmp_path: Path) -> None:
    (sample,) = read(write(tmp_path, {"question": "What?", "video": "clip_000"}))
    assert "field 'video': found 'clip_000', which is not a file in" in message_of(sample, "bad_media")


def test_list_of_turns_is_a_bad_field(tmp_path: Path) -> None:
    (sample,) = read(write(tmp_path, {"question": "['1?', '2?']", "answer": "['x', 'y']"}))
    assert "field 'question': found a list of 2 turns; expected one question" in message_of(sample, "bad_field")


def test_messages_column_is_a_conversation(tmp_path: Path) -> None:
    turns = "[{'from': 'human', 'value': '<image>\\n1?'}, {'from': 'gpt', 'value': 'one'}]"
    path = write(tmp_path, {"index": 0, "image": SMALL, "conversations": turns})
    (sample,) = read(path, format="vlmeval_tsv")
    assert [message.content for message in sample.messages] == [(0, "1?")]
    assert (sample.target, sample.media, sample.fault) == (("one",), (inline(SMALL),), None)


def test_ignored_columns_are_not_read(tmp_path: Path) -> None:
    (sample,) = read(
        write(tmp_path, {"question": "Q?", "image": SMALL, "note": "x", "hint": "h"}), ignore=["image", "note", "hint"]
    )
    assert (sample.media, sample.metadata, sample.hint) == ((), {}, None)
