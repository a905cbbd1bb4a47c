"""Faulty and unusual rows of CSV, JSON, Parquet and compressed files."""

import gzip
import json
from io import BytesIO
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tests.support.faults.bad_input.cases import RowCase
from tests.support.faults.bad_input.contents import make_lines

_HEADER, _BEFORE, _AFTER = "id,question,answer,neighbour", "8001,the row before?,ok,yes", "8002,the row after?,ok,yes"
_NEIGHBOURS = [{"question": f"the row {place}?", "neighbour": "yes"} for place in ("before", "after")]


def _make_csv(line: bytes) -> bytes:
    return b"".join(one + b"\n" for one in (_HEADER.encode(), _BEFORE.encode(), line, _AFTER.encode()))


def _make_array(element: bytes) -> bytes:
    before, after = (json.dumps(row).encode() for row in _NEIGHBOURS)
    return b"[" + b",\n".join((before, element, after)) + b"]\n"


def _make_parquet(question: pa.Array, **columns: list[Any]) -> bytes:
    table = {"question": question, "neighbour": ["yes", None, "yes"], **columns}
    sink = BytesIO()
    parquet.write_table(pa.table(table), sink)
    return sink.getvalue()


def _make_text(*texts: bytes) -> pa.Array:
    """Return a column of text whose bytes may be invalid UTF-8."""
    ends = [sum(map(len, texts[:number])) for number in range(len(texts) + 1)]
    return pa.Array.from_buffers(
        pa.string(), len(texts), [None, pa.array(ends, pa.int32()).buffers()[1], pa.py_buffer(b"".join(texts))]
    )


def _refuse_line(name: str, given: str, line: bytes, message: str, *, code: str = "bad_row") -> RowCase:
    return RowCase(name, given, code, f"rows.csv: line 3: {message}", _make_csv(line), "rows.csv")


def _accept_line(name: str, given: str, line: bytes, note: str) -> RowCase:
    return RowCase(name, given, "ok", note, _make_csv(line), "rows.csv")


def _refuse_element(name: str, given: str, element: bytes, message: str, *, code: str = "bad_row") -> RowCase:
    return RowCase(name, given, code, f"rows.json: row 2 (line 2): {message}", _make_array(element), "rows.json")


CSV = (
    _refuse_line(
        "CSV row, short", "a row of three cells under a header of four", b"1,Why?,ok", "found 3 cells; expected 4, as in the header"
    ),
    _refuse_line(
        "CSV row, long", "an unquoted comma in a question", b"1,Why, then?,ok,", "found 5 cells; expected 4, as in the header"
    ),
    _refuse_line(
        "unclosed quote in a CSV",
        "a cell with an unclosed quote",
        b'1,"Why?,ok,',
        "a cell has an unclosed quote; expected a closing quote",
    ),
    _refuse_line(
        "the CSV header twice",
        "the header repeated between the rows",
        _HEADER.encode(),
        "found the header again; expected a row; when you join files, keep only the first header",
    ),
    _refuse_line(
        "CSV in Latin-1",
        "a cell in Latin-1, as a spreadsheet saves it",
        b"1,caf\xe9?,ok,",
        "field 'question': not UTF-8 (byte 4 of the cell); expected UTF-8",
    ),
    _refuse_line(
        "empty question in a CSV",
        "a row without a question",
        b"1,,ok,",
        "field 'question': absent, null or blank; expected the question's text",
        code="missing_question",
    ),
    _accept_line("comma inside quotes", "a quoted cell with a comma", b'1,"Why, then?",ok,', "the comma is text"),
    _accept_line("quotes inside quotes", "a quoted cell with doubled quotes", b'1,"A ""quoted"" word?",ok,', "one quote each"),
    _accept_line("line end in a CSV cell", "a quoted cell of two lines", b'1,"two\nlines?",ok,', "the line end is text"),
    _accept_line("words for absent values", "`NA` and `None` as cells", b"NA,None,ok,", "kept as text"),
    RowCase(
        "CSV with semicolons",
        "a CSV as spreadsheets write it in many countries, with a BOM and CRLF",
        "ok",
        "the delimiter is found in the header",
        b"\xef\xbb\xbf" + _make_csv(b"1,Why?,ok,").replace(b",", b";").replace(b"\n", b"\r\n"),
        "rows.csv",
    ),
    RowCase(
        "CSV named .tsv.txt",
        "an ending that is not known",
        "ok",
        "the delimiter is found in the header",
        _make_csv(b"1,Why?,ok,"),
        "rows.tsv.txt",
    ),
)

JSON = (
    _refuse_element("number among objects", "`7` in an array of objects", b"7", "found 7 (a number); expected a JSON object"),
    _refuse_element("null among objects", "`null` in an array of objects", b"null", "found None (null); expected a JSON object"),
    _refuse_element("nothing between two commas", "`{…}, , {…}`", b"", "not JSON (…); expected a JSON object"),
    _refuse_element(
        "a key twice in an element",
        '`{"question": "a?", "question": "b?"}`',
        b'{"question": "a?", "question": "b?"}',
        "the key 'question' is given twice in one object; expected each key once",
    ),
    _refuse_element(
        "array in Latin-1",
        "an element that is not UTF-8",
        b'{"question": "caf\xe9?"}',
        "not UTF-8 (byte 18 of the row); expected a JSON object in UTF-8",
    ),
    _refuse_element(
        "surrogate in an array",
        r'`{"question": "\ud800?"}`',
        b'{"question": "\\ud800?"}',
        "field 'question': found a lone surrogate in …; expected text that UTF-8 can hold",
        code="bad_field",
    ),
    _refuse_element(
        "array nested 100 deep",
        "an element of 100 nested lists",
        b'{"question": "Why?", "a": ' + b"[" * 100 + b"]" * 100 + b"}",
        "nested more than 64 levels deep; expected a flatter object",
    ),
    RowCase(
        "NaN in an array", '`"score": NaN`', "ok", "kept as null", _make_array(b'{"question": "Why?", "score": NaN}'), "rows.json"
    ),
    RowCase(
        "object of lists",
        '`{"question": [...], "neighbour": [...]}`',
        "ok",
        "one row for each place of the lists",
        b'{"question": ["the row before?", "Why?", "the row after?"], "neighbour": ["yes", null, "yes"]}',
        "rows.json",
    ),
    RowCase(
        "JSON lines named .json", "one object per line", "ok", "read as JSON lines", make_lines({"question": "Why?"}), "rows.json"
    ),
)

PARQUET = (
    RowCase(
        "bad UTF-8 in a column",
        "a text that is not UTF-8",
        "bad_field",
        "rows.parquet: row 2: field 'question': cannot be read (Invalid…UTF8…); expected a valid value of the column's type",
        _make_parquet(_make_text(b"the row before?", b"caf\xe9?", b"the row after?")),
        "rows.parquet",
    ),
    RowCase(
        "null question in a column",
        "a null in the column of questions",
        "missing_question",
        "rows.parquet: row 2: field 'question': absent, null or blank; expected the question's text",
        _make_parquet(pa.array(["the row before?", None, "the row after?"])),
        "rows.parquet",
    ),
    RowCase(
        "list as a target of lists",
        "a list of lists in the column `answer`",
        "bad_field",
        "rows.parquet: row 2: field 'answer': found ['a'] (a list); expected text, a number, true or false",
        _make_parquet(pa.array(["the row before?", "Why?", "the row after?"]), answer=[None, [["a"]], None]),
        "rows.parquet",
    ),
    RowCase(
        "binary metadata",
        "a column of bytes that are not media",
        "ok",
        "its size is kept",
        _make_parquet(pa.array(["the row before?", "Why?", "the row after?"]), thumb=[None, b"\xff\xfe", None]),
        "rows.parquet",
    ),
)

PACKED = (
    RowCase(
        "gzip named .jsonl",
        "a compressed file without the ending `.gz`",
        "ok",
        "unpacked while it is read",
        gzip.compress(make_lines({"question": "Why?"})),
    ),
    RowCase(
        "bad row in a compressed file",
        "a line of plain text in a `.jsonl.gz`",
        "bad_row",
        "rows.jsonl.gz: line 2: not JSON (…); expected a JSON object",
        gzip.compress(make_lines(b"Why?")),
        "rows.jsonl.gz",
    ),
)
