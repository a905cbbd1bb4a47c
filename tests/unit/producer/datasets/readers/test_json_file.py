"""JSON arrays and JSON objects of lists: rows with the rules of JSON lines, named faults, constant memory."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.readers import json_elements
from producer.datasets.readers.compression import open_unpacked
from producer.datasets.readers.json_elements import JsonCursor
from producer.datasets.readers.json_file import _skip, read_json
from producer.datasets.rows import Row
from tests.support.datasets import check_memory_is_bounded, make_base64

GOOD = b'{"question": "Q?"}'
ARRAY = (
    b'[{"id": 1, "question": "What colour is it?", "image": "red.png", "answer": "red"}, '
    b'{"id": 2, "question": "What colour is it?", "image": "blue.png", "answer": "blue"}]'
)


def read(folder: Path, content: bytes, name: str = "set.json") -> list[Sample]:
    (folder / name).write_bytes(content)
    return list(read_dataset(DatasetSource(path=str(folder / name))))


def read_rows(folder: Path, content: bytes) -> list[Row]:
    (folder / "set.json").write_bytes(content)
    return list(read_json(DatasetSource(path=str(folder / "set.json"))))


def test_array_becomes_samples(tmp_path: Path) -> None:
    samples = read(tmp_path, ARRAY)
    assert [(sample.index, sample.target, sample.media[0].uri) for sample in samples] == [
        ("1", ("red",), f"{tmp_path}/red.png"),
        ("2", ("blue",), f"{tmp_path}/blue.png"),
    ]
    assert [sample.fault for sample in samples] == [None, None]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"\n \r\n\t"])
def test_formatting_does_not_change_samples(tmp_path: Path, indent: int | None, begin: bytes) -> None:
    content = begin + json.dumps(json.loads(ARRAY), indent=indent).encode() + b"\n"
    (plain,) = {sample.sample_id for sample in read(tmp_path, ARRAY)[:1]}
    assert [sample.fault for sample in read(tmp_path, content)] == [None, None]
    assert read(tmp_path, content)[0].sample_id == plain


@pytest.mark.parametrize(
    ("element", "part"),
    [
        (b"{]", None),
        (b"[1]", "found [1] (a list); expected a JSON object"),
        (b"null", "found None (null); expected a JSON object"),
        (b"7", "found 7 (a number); expected a JSON object"),
        (b'"text, with ] and }"', "(text); expected a JSON object"),
        (b"NaN", "found nan (a number); expected a JSON object"),
        (b"", "not JSON"),
        (b"{'question': 1}", "not JSON"),
        (b'{"question": "\xff"}', "not UTF-8 (byte 15 of the row)"),
        (b'{"question": "a\nb"}', "not JSON"),
        (b'{"question": "a?", "question": "b?"}', "the key 'question' is given twice in one object"),
        (b'{"question": "Q?", "deep": ' + b"[" * 65 + b"]" * 65 + b"}", "nested more than 64 levels deep"),
        (b'{"question": "\\ud800"}', "found a lone surrogate"),
        (b'{"question": NaN}', "expected text"),
    ],
)
def test_faulty_element_does_not_affect_others(tmp_path: Path, element: bytes, part: str | None) -> None:
    content = b"[" + b",\n".join([GOOD, element, GOOD]) + b"]"
    if part is None:
        with pytest.raises(ConfigError, match=r"set\.json: line 2: row 2 begins here and has a \] too many"):
            read(tmp_path, content)
        return
    samples = read(tmp_path, content)
    assert [sample.fault is None for sample in samples] == [True, False, True]
    fault = samples[1].fault
    assert fault is not None
    assert fault.message.startswith("set.json: row 2 (line 2): ")
    assert part in fault.message


def test_nan_in_metadata_becomes_none(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, b'[{"question": "Q?", "score": NaN}]')
    assert (sample.fault, sample.metadata) == (None, {"score": None})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" + GOOD, "row 1 begins here, and the file ends before the row or the array does"),
        (b"[" + GOOD + b",", "row 2 begins here, and the file ends"),
        (b"[" + GOOD + b',{"question": "Q', "row 2 begins here, and the file ends"),
        (b"[", "row 1 begins here, and the file ends"),
        (b"[" + GOOD + b"] [", "found more text after the end of the array"),
        (b"[" + GOOD + b"}]", "row 1 begins here and has a } too many"),
        (b"7", r"found no array or object; expected \[ or {"),
        (b'{"question": ["a"], "answer": []}', "the lists have different lengths: 'question' has 1, 'answer' has 0"),
        (b'{"question": ["a"], "question": ["b"]}', "the object has two lists 'question'"),
        (b'{"info": {"year": 1},\n"question": ["a"]}', '"info" is not a list; expected an array of objects or an object of lists'),
        (b'{"question": ["a"], 7}', "found '7}'; expected a name"),
        (b'{"question": ["a"] "b"', "found '\"b\"'; expected , or }"),
        (b'{"question": ["a"], "ans', "the file ends in a name"),
        (b'{"question": ["a"]', "found the end of the file; expected , or }"),
        (b'{"question": ["a"]} x', "found more text after the end of the object"),
        (b'{"caf\xe9": ["a"]}', "is not a name in UTF-8"),
        (
            b"{%s}" % b",".join(b'"%d": []' % number for number in range(257)),
            "the object has more than 256 lists; expected at most one",
        ),
        (b"[]", "holds no rows; expected at least one"),
        (b"", "holds no rows; expected at least one"),
        (b'{"question": []}', "holds no rows; expected at least one"),
        ("[]".encode("utf-16"), "is text in UTF-16; save it in UTF-8"),
    ],
)
def test_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset 'set': .*set\.json.*{message}"):
        read(tmp_path, content)


def test_object_of_lists_becomes_rows(tmp_path: Path) -> None:
    table = {"question": ["a]?", 'b"?'], "answer": ["x", None], "options": [["x", "y"], {"A": "x"}], "n": [1, 2.5]}
    for indent in (None, 1):
        rows = read_rows(tmp_path, json.dumps(table, indent=indent).encode())
        assert [row.fields for row in rows] == [
            {"question": "a]?", "answer": "x", "options": ["x", "y"], "n": 1},
            {"question": 'b"?', "answer": None, "options": {"A": "x"}, "n": 2.5},
        ]
        assert [row.line for row in rows] == ["row 1", "row 2"]


def test_object_of_lists_has_row_faults(tmp_path: Path) -> None:
    samples = read(tmp_path, b'{"question": ["a?", "\\ud800", "c?", "d?"], "x": [1, 2, {"k": 1, "k": 2}, NaN]}')
    assert [sample.fault and sample.fault.code for sample in samples] == [None, "bad_field", "bad_row", None]
    assert samples[2].fault is not None
    assert samples[2].fault.message == "set.json: row 3: the key 'k' is given twice in one object; expected each key once"


def test_lists_after_the_limit_are_not_read(tmp_path: Path) -> None:
    lists = b",".join(b'"%d": []' % number for number in range(257))
    with pytest.raises(ConfigError, match="the object has more than 256 lists"):
        read(tmp_path, b"{%s, not JSON" % lists)


def test_compressed_file_that_shrinks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.json.gz"
    path.write_bytes(gzip.compress(b'{"question": ["a?", "b?"]}'))
    with open_unpacked(str(path), "set") as stream:
        assert not _skip(stream, 2**30)
    with open_unpacked(str(path), "set") as stream:
        assert _skip(stream, 12)
        assert stream.read(1) == b" "


def test_json_lines_named_json_are_read(tmp_path: Path) -> None:
    lines = b'{"question": "a?"}\n{"question": "b?"}\n'
    assert [sample.question for sample in read(tmp_path, lines)] == ["a?", "b?"]
    assert [sample.question for sample in read(tmp_path, GOOD)] == ["Q?"]
    lists = b'{"question": "a?", "n": [1]}\n\n{"n": [2]}\n{"n": [3]}\n'
    assert [sample.metadata["n"] for sample in read(tmp_path, lists)] == [[1], [2], [3]]
    assert [sample.metadata["n"] for sample in read(tmp_path, lists.partition(b"\n\n")[2])] == [[2], [3]]


def test_annotations_in_one_line_are_not_a_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='"info" is not a list'):
        read(tmp_path, b'{"info": {"year": 1}, "images": [{"id": 1}], "annotations": []}')


@pytest.mark.parametrize("content", [ARRAY, b'{"question": ["a", "b"], "answer": ["c", "d"]}'])
def test_compressed_file_gives_the_same_samples(tmp_path: Path, content: bytes) -> None:
    plain = read(tmp_path, content)
    assert len(plain) == 2
    assert read(tmp_path, gzip.compress(content), "set.json.gz") == plain


def test_large_image_stays_in_the_file(tmp_path: Path) -> None:
    payload = make_base64(2 * 2**20)
    rows = [{"question": f"{number}?", "image": f"data:image/png;base64,{payload}"} for number in range(20)]
    path = tmp_path / "set.json"
    path.write_text(json.dumps(rows))
    check_memory_is_bounded(path)
    media = next(iter(read_dataset(DatasetSource(path=str(path))))).media[0]
    assert media.offset is not None
    assert media.length is not None
    assert path.read_bytes()[media.offset : media.offset + media.length].decode() == payload


def test_row_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_elements, "ELEMENT_LIMIT_BYTES", 2**20)
    with pytest.raises(ConfigError, match="row 2 begins here and is longer than 1,048,576 bytes"):
        read(tmp_path, b"[" + GOOD + b',{"question": "' + b"x" * 3 * 2**20 + b'"}]')


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text('ab"\\[]{},:\n é\0', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"]}', max_size=3), inner, max_size=3),
    max_leaves=8,
)


class _SlowStream(io.BytesIO):
    """A stream that returns a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(3 if size is None or size > 3 else size)


@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_array_is_split_into_its_elements(values: list[Any], indent: int | None, is_slow: bool) -> None:
    content = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    cursor = JsonCursor((_SlowStream if is_slow else io.BytesIO)(content), "x")
    elements = list(cursor.iterate_elements())
    assert [json.loads(element.content) for element in elements] == values
    assert cursor.peek() == b""
    for element in elements:
        assert content[element.offset : element.offset + len(element.content)] == element.content
        assert content[: element.offset].count(b"\n") == element.line - 1


@given(st.lists(st.fixed_dictionaries({"question": VALUES, "a]": VALUES}), min_size=1, max_size=4), st.booleans())
def test_rows_and_columns_are_read_alike(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], sort: bool) -> None:
    folder = tmp_path_factory.mktemp("json")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert [row.fields for row in read_rows(folder, json.dumps(rows, sort_keys=sort).encode())] == rows
    assert [row.fields for row in read_rows(folder, json.dumps(columns, sort_keys=sort).encode())] == rows


@given(st.lists(VALUES, min_size=1, max_size=4), st.data())
def test_cut_array_is_never_read_as_shorter(values: list[Any], data: st.DataObject) -> None:
    content = json.dumps(values).encode()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(ConfigError):
        list(JsonCursor(io.BytesIO(cut), "x").iterate_elements())
