"""CSV, CSV with semicolons and plain TSV: every cell stays as written, and every fault of a header or a row is named."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.readers.csv_table import read_csv
from producer.datasets.registry import find_format
from tests.support.datasets import make_base64

VQA = b"""id,question,answer,image
1,"What colour, roughly?",red,red.png
2,"A ""quoted"" word?",yes,green.png
3,"two
lines",no,blue.png
"""


def read(folder: Path, content: bytes, name: str = "set.csv", **more: object) -> list[Sample]:
    (folder / name).write_bytes(content)
    return list(read_dataset(DatasetSource.model_validate({"path": str(folder / name), **more})))


def message_of(sample: Sample) -> str:
    assert sample.fault is not None
    return sample.fault.message


def test_quoted_cells_are_read(tmp_path: Path) -> None:
    samples = read(tmp_path, VQA)
    assert [sample.fault for sample in samples] == [None] * 3
    assert [(sample.index, sample.question, *sample.target) for sample in samples] == [
        ("1", "What colour, roughly?", "red"),
        ("2", 'A "quoted" word?', "yes"),
        ("3", "two\nlines", "no"),
    ]
    assert [sample.media[0].uri for sample in samples] == [f"{tmp_path}/{name}.png" for name in ("red", "green", "blue")]


@pytest.mark.parametrize("text", ["007", "NA", "None", "null", "nan", "0.50", "1e3", "TRUE", " padded ", "-"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_cells_stay_as_written(tmp_path: Path, text: str, delimiter: str) -> None:
    rows = [["question", "A", "B", "answer", "note"], [f"{text}?", text, "other", text, text]]
    content = "".join(delimiter.join(row) + "\n" for row in rows).encode()
    (sample,) = read(tmp_path, content)
    assert (sample.question, sample.options, sample.metadata) == (f"{text}?", {"A": text, "B": "other"}, {"note": text})
    assert (sample.kind, sample.target) == ("multiple_choice", ("A",))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("set.csv", b"id,question\n", "csv"),
        ("set.csv", b"\xef\xbb\xbfid;question;note, long\n", "csv_semicolon"),
        ("set.csv", b"id\tquestion\n", "tsv"),
        ("set.csv", b"question\n", "csv"),
        ("set.csv", b'"a;b",question\n', "csv"),
        ("set.tsv", b"image_path\tcaption\n", "tsv"),
        ("set.tsv", b"question\timage\nWhy?\ta/red.png\n", "tsv"),
        ("set.tsv", b"question\timage\nWhy?\t\nWhy?\thttps://h.example/a.png\n", "tsv"),
        ("set.tsv", b"question\timage\nWhy?\tiVBORw0KGgo=\n", "vlmeval_tsv"),
        ("set.tsv", b"index\tquestion\timage\n1\tWhy?\ta/red.png\n", "vlmeval_tsv"),
        ("set.tsv", b"question\tanswer\n", "vlmeval_tsv"),
        ("set.txt", b"id;question\n", "csv_semicolon"),
        ("set", b"id\tquestion\n", "tsv"),
    ],
)
def test_delimiter_is_found_in_the_header(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert find_format(DatasetSource(path=str(tmp_path / name))) == found


def test_plain_tsv_is_read(tmp_path: Path) -> None:
    samples = read(tmp_path, b"qid\tprompt\timage\n7\tWhy?\tred.png\n", "set.tsv", fields={"question": "prompt", "id": "qid"})
    assert samples[0].index == "7"
    (sample,) = read(tmp_path, b"qid\tquestion\timage\n007\tWhy?\tred.png\n", "set.tsv")
    assert (sample.index, sample.media[0].uri) == ("007", f"{tmp_path}/red.png")


def test_ambiguous_header_lists_the_formats(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fits several delimiters; expected one: give format: csv, format: csv_semicolon"):
        read(tmp_path, b"question,x;question\n")
    assert len(read(tmp_path, b"question,x;question\nWhy?,1\n", format="csv")) == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "the file is empty; expected a header with the names of the columns"),
        (b",question\n0,Why?\n", r"column 1 of the header has no name; expected a name for each column \(pandas writes the index"),
        (b"question,\nWhy?,1\n", "column 2 of the header has no name"),
        (b"question,note,question\n", "two columns are called 'question'; expected one: rename the other"),
        (b"1,red.png,Why?\n", "the header has no column 'question'; found 1, red.png, Why.; expected a header with our names"),
        (b"id,quesion\n", "no column 'question'; did you mean 'quesion'"),
        (b'"question,id\n1,2\n', "the header has an unclosed quote"),
        (b"question,caf\xe9\n", r"the header is not UTF-8 \(byte 4 of a name\)"),
    ],
)
def test_faulty_header_is_named(tmp_path: Path, header: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset 'set': .*set\.csv: .*{message}"):
        read(tmp_path, header)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1", "line 3: found 1 cells; expected 3, as in the header"),
        (b"1,Why?,a,", "line 3: found 4 cells; expected 3, as in the header"),
        (b"id,question,note", "line 3: found the header again; expected a row"),
        (b'1,"Why?,a', "line 3: a cell has an unclosed quote"),
        (b"1,caf\xe9?,a", "line 3: field 'question': not UTF-8"),
    ],
)
def test_faulty_row_does_not_affect_others(tmp_path: Path, line: bytes, message: str) -> None:
    samples = read(tmp_path, b"\n".join([b"id,question,note", b"7,Why?,a", line, b"8,When?,b", b""]))
    assert [sample.fault and sample.fault.code for sample in samples] == [None, "bad_row", None]
    assert message_of(samples[1]).startswith(f"set.csv: {message}")
    assert [sample.index for sample in samples] == ["7", "1" if b"question" not in line else "id", "8"]


def test_large_data_url_stays_in_the_file(tmp_path: Path) -> None:
    payload = make_base64(20_000)
    (sample,) = read(tmp_path, f'question,image\n"Why?","data:image/png;base64,{payload}"\n'.encode())
    (media,) = sample.media
    assert media.data is None
    assert media.offset is not None
    assert media.length is not None
    assert (tmp_path / "set.csv").read_bytes()[media.offset : media.offset + media.length].decode() == payload


CELLS = st.text(alphabet="ab é\"',;\t\n[]\0", max_size=6)


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_tables_of_csv_writer_are_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], end: str, bom: bool
) -> None:
    stream = io.StringIO()
    header = ["id", "question", "note"]
    csv.writer(stream, lineterminator=end).writerows([header, *rows])
    path = tmp_path_factory.mktemp("csv") / "set.csv"
    path.write_text(stream.getvalue(), encoding="utf-8-sig" if bom else "utf-8", newline="")
    found = list(read_csv(DatasetSource(path=str(path))))
    assert [{name: row.fields.get(name, "") for name in header} for row in found] == [
        dict(zip(header, row, strict=True)) for row in rows
    ]
    assert [(row.number, row.fault) for row in found] == [(number, None) for number in range(len(rows))]


def test_option_columns_obey_ignore_and_yield_to_options(tmp_path: Path) -> None:
    content = b"question,options,A,B,answer\nq,\"['p', 'q']\",x,y,A\nr,,x,y,A\ns,,x,,A\n"
    listed, columns, one = read(tmp_path, content)
    assert [sample.options for sample in (listed, columns, one)] == [{"A": "p", "B": "q"}, {"A": "x", "B": "y"}, {"A": "x"}]
    assert [sample.options for sample in read(tmp_path, content, ignore=["A", "B"])] == [{"A": "p", "B": "q"}, {}, {}]
