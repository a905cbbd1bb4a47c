"""JSON lines: rows, faults and byte ranges of large media."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.readers import lines
from tests.support.datasets import check_memory_is_bounded, inline, make_base64

GOOD = b'{"question": "Q?"}'


def read(folder: Path, content: bytes) -> list[Sample]:
    path = folder / "set.jsonl"
    path.write_bytes(content)
    return list(read_dataset(DatasetSource(path=str(path))))


def faults(samples: list[Sample]) -> list[str | None]:
    return [sample.fault.code if sample.fault else None for sample in samples]


def message_of(sample: Sample) -> str:
    assert sample.fault is not None
    return sample.fault.message


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"{", "not JSON"),
        (b'{"question": "Q?"} x', "not JSON"),
        (b'{"question": "Q?"\x00}', "not JSON"),
        (b"[1]", "found [1] (a list); expected a JSON object"),
        (b"null", "found None (null); expected a JSON object"),
        (b"NaN", "found nan (a number); expected a JSON object"),
        (b'{"question": "\xff"}', "not UTF-8 (byte 15 of the row)"),
        (b'{"question": "Q?", "n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested more than 64 levels deep"),
        (b'{"question": "Q?", "question": "R?"}', "the key 'question' is given twice in one object"),
        (b'{"question": "Q?", "quest\\u0069on": "R?"}', "the key 'question' is given twice"),
        (b'{"question" :"Q?", "a": [{"b": 1, "b": 1}]}', "the key 'b' is given twice"),
        (b'{"question": "Q?", "a": NaN, "a": 1}', "the key 'a' is given twice"),
        (b'{"question": "Q?", "deep": ' + b"[" * 65 + b"]" * 65 + b"}", "nested more than 64 levels deep"),
    ],
)
def test_line_without_json_object_is_a_bad_row(tmp_path: Path, line: bytes, part: str) -> None:
    samples = read(tmp_path, b"\n".join([GOOD, line, GOOD]))
    assert faults(samples) == [None, "bad_row", None]
    assert message_of(samples[1]).startswith("set.jsonl: line 2: ")
    assert part in message_of(samples[1])
    assert [sample.index for sample in samples] == ["0", "1", "2"]


def test_colons_in_text_are_not_keys(tmp_path: Path) -> None:
    rows = [{"question": '"a": 1, "a": 2', "a": {"b": 1}, "b": {"b": 1}, "c": [{"b": 1}, {"b": 2}]}, {"question": ":::?"}]
    assert faults(read(tmp_path, b"\n".join(json.dumps(row).encode() for row in rows))) == [None, None]


def test_brackets_in_text_are_not_nesting(tmp_path: Path) -> None:
    assert faults(read(tmp_path, json.dumps({"question": "[" * 99, "boxes": [[1]] * 99, "deep": "{" * 99}).encode())) == [None]


def test_blank_lines_are_skipped_but_numbered(tmp_path: Path) -> None:
    samples = read(tmp_path, b"\n \t\r\n" + GOOD + b"\r\n\n{}\n\n")
    assert [sample.index for sample in samples] == ["0", "1"]
    assert message_of(samples[1]).startswith("set.jsonl: line 5: ")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n \r\n"])
def test_file_without_rows_raises_config_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"dataset 'set': .*set\.jsonl holds no rows; expected at least one"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (gzip.compress(gzip.compress(GOOD, mtime=0), mtime=0), "compressed with gzip twice; unpack it once"),
        (bz2.compress(GOOD), "compressed with bzip2; unpack it, or compress it with gzip or zstd"),
        (lzma.compress(GOOD), "compressed with xz; unpack it, or compress it with gzip or zstd"),
        (b"PAR1....PAR1", "a Parquet file; give its format: parquet"),
        (b"ARROW1....ARROW1", "an Arrow file; give its format: arrow"),
        (GOOD.decode().encode("utf-16"), "text in UTF-16; save it in UTF-8"),
    ],
)
def test_file_of_another_format_is_rejected(tmp_path: Path, content: bytes, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset 'set': path: .*set\.jsonl is {found}"):
        read(tmp_path, content)


def test_byte_order_mark_and_crlf_are_ignored(tmp_path: Path) -> None:
    plain = read(tmp_path, GOOD + b"\n{}\n")
    assert read(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\r\n{}\r\n") == plain


def test_nan_becomes_none_only_in_metadata(tmp_path: Path) -> None:
    line = b'{"question": "Q?", "score": NaN, "parts": [Infinity, {"x": -Infinity}], "big": 1e999, "fine": 1.5}'
    (sample,) = read(tmp_path, line)
    assert (sample.fault, sample.metadata) == (None, {"score": None, "parts": [None, {"x": None}], "big": None, "fine": 1.5})
    assert faults(read(tmp_path, b'{"question": "Q?", "answer": NaN}')) == ["bad_field"]


@pytest.mark.parametrize("field", ["question", "topic", "answer", "image", "id"])
def test_lone_surrogate_is_a_field_fault(tmp_path: Path, field: str) -> None:
    row = {"question": "Q?", "id": 7, "topic": "z", field: "a\ud800b"}
    (sample,) = read(tmp_path, json.dumps(row).encode())
    assert faults([sample]) == ["bad_field"]
    assert message_of(sample).startswith(f"set.jsonl: line 1: field '{field}': found a lone surrogate")
    assert sample.index == ("a\ufffdb" if field == "id" else "7")
    assert sample.metadata["topic"] == ("a\ufffdb" if field == "topic" else "z")
    assert Sample.model_validate_json(sample.model_dump_json()) == sample


def test_lone_surrogate_in_field_name_is_fault(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, b'{"question": "Q?", "to\\ud800pic": {"\\udc00": 1}}')
    assert faults([sample]) == ["bad_field"]
    assert sample.metadata == {"to\ufffdpic": {"\ufffd": 1}}


def test_nul_character_is_kept(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, b'{"question": "a\\u0000b", "topic": "\\u0000"}')
    assert (sample.fault, sample.question) == (None, "a\0b")


def test_overlong_line_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT_BYTES", 64)
    long = json.dumps({"question": "Q?", "topic": "x" * 200}).encode()
    samples = read(tmp_path, b"\n".join([GOOD, long, GOOD, long]))
    assert faults(samples) == [None, "bad_row", None, "bad_row"]
    assert message_of(samples[3]) == "set.jsonl: line 4: longer than 64 bytes; expected one JSON object per line"


@pytest.mark.parametrize(("name", "value"), [("target", "[1, NaN]"), ("options", '["a", -Infinity]'), ("options", '{"A": NaN}')])
def test_nan_inside_a_known_field_is_fault(tmp_path: Path, name: str, value: str) -> None:
    (sample,) = read(tmp_path, f'{{"question": "Q?", "{name}": {value}}}'.encode())
    assert faults([sample]) == ["bad_field"]
    assert f"field {name!r}: found" in message_of(sample)


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" "))).map(lambda lines: [GOOD, *lines]))
def test_any_bytes_give_one_sample_per_line(tmp_path_factory: pytest.TempPathFactory, content: list[bytes]) -> None:
    samples = read(tmp_path_factory.mktemp("any"), b"\n".join(content).removeprefix(b"\xef\xbb\xbf"))
    assert len(samples) == sum(1 for line in content if line and not line.isspace())
    for sample in samples:
        assert Sample.model_validate_json(sample.model_dump_json()) == sample


def test_large_base64_becomes_a_byte_range(tmp_path: Path) -> None:
    texts = [make_base64(9000, seed) for seed in (1, 2)]
    row = {"question": "ü?", "images": [f"data:image/jpeg;base64,{text}" for text in texts]}
    content = b"\xef\xbb\xbf" + GOOD + b"\n\n" + json.dumps(row, ensure_ascii=False).encode() + b"\n"
    sample = read(tmp_path, content)[1]
    for media, text in zip(sample.media, texts, strict=True):
        assert (media.uri, media.data, media.encoding) == (str(tmp_path / "set.jsonl"), None, "base64")
        assert media.offset is not None
        assert media.length is not None
        assert content[media.offset : media.offset + media.length] == text.encode()


def test_sample_id_ignores_the_image_offset(tmp_path: Path) -> None:
    text = make_base64(9000)
    row = {"question": "Q?", "image": f"data:image/png;base64,{text}"}
    first, _, second = read(tmp_path, b"\n".join([json.dumps(row).encode(), GOOD, json.dumps(row | {"id": 9}).encode()]))
    assert first.media != second.media
    assert (first.sample_id, first.group) == (second.sample_id, second.group)


def test_small_or_escaped_base64_is_inline(tmp_path: Path) -> None:
    small, escaped = "A" * 8192, "A" * 8192 + "/AAA"
    line = json.dumps({"question": "Q?", "image": [f"data:;base64,{text}" for text in (small, escaped)]}).replace("/", "\\/")
    (sample,) = read(tmp_path, line.encode())
    assert sample.media == (inline(small), inline(escaped))


def test_memory_is_independent_of_file_size(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    text = make_base64(2**21)
    with path.open("w") as stream:
        for number in range(20):
            stream.write(json.dumps({"question": f"{number}?", "image": f"data:image/png;base64,{text}"}) + "\n")
    check_memory_is_bounded(path)


def test_fault_message_is_escaped_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J.jsonl"
    path.write_bytes(b'{"question": "Q?", "' + b"x" * 100_000 + b'": "\\ud800"}')
    (sample,) = read_dataset(DatasetSource(path=str(path), name="odd"))
    assert message_of(sample).startswith(r"a\x1b[2J.jsonl: line 1: field ")
    assert len(message_of(sample)) <= 2000
