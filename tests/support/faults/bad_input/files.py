"""Faulty files of tables, JSON and Parquet, and several files that are not one dataset."""

import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc, parquet

from tests.support.faults.bad_input.cases import CommandCase, Write

_AT = "spec.yaml: datasets.0.path: "
_TABLE = pa.table({"question": ["Why?", "When?"]})
_LINES = b'{"question": "Why?"}\n' * 50


def _refuse(name: str, given: str, files: dict[str, bytes], message: str, *, path: str = "", more: str = "") -> CommandCase:
    first = path or next(iter(files))
    spec = f"model: quick\ndatasets: [{{path: '{first}', name: wrong{more}}}]\n"
    return CommandCase(name, given, f"producer: {message}", spec=spec, prepare=_write(files))


def _refuse_content(name: str, given: str, file: str, content: bytes, message: str) -> CommandCase:
    return _refuse(name, given, {file: content}, f"dataset 'wrong': {message}")


def _write(files: dict[str, bytes]) -> Write:
    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    return write


def _make(write: Callable[[BytesIO], object]) -> bytes:
    sink = BytesIO()
    write(sink)
    return sink.getvalue()


def _pack_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


def _write_stream(sink: BytesIO) -> None:
    with ipc.new_stream(sink, _TABLE.schema) as writer:
        writer.write_table(_TABLE)


_PARQUET = _make(lambda sink: parquet.write_table(_TABLE, sink))
_STREAM = _make(_write_stream)
_COMPLETE = "check that the file is complete JSON"
_CUT = "the compressed file is cut or damaged (…); expected a complete file: copy it again"
_NO_QUESTION = "expected a header with our names, or fields: {question: COLUMN}"

FILES = (
    _refuse_content(
        "empty CSV",
        "an empty file",
        "wrong.csv",
        b"",
        "wrong.csv: the file is empty; expected a header with the names of the columns",
    ),
    _refuse_content(
        "column without a name",
        "a CSV that pandas writes with its index",
        "wrong.csv",
        b",question\n0,Why?\n",
        "wrong.csv: column 1 of the header has no name; expected a name for each column (pandas writes the index without a name: "
        "use to_csv(…, index=False))",
    ),
    _refuse_content(
        "a CSV column twice",
        "a header with two columns `question`",
        "wrong.csv",
        b"question,note,question\nWhy?,a,b\n",
        "wrong.csv: two columns are called 'question'; expected one: rename the other",
    ),
    _refuse_content(
        "CSV without a header",
        "a row in place of the header",
        "wrong.csv",
        b"1,red.png,Why?\n",
        f"wrong.csv: the header has no column 'question'; found 1, red.png, Why?; {_NO_QUESTION}",
    ),
    _refuse_content(
        "CSV header in UTF-16",
        "a CSV as a spreadsheet saves it",
        "wrong.csv",
        "question,note\nWhy?,a\n".encode("utf-16"),
        "path: wrong.csv is text in UTF-16; save it in UTF-8",
    ),
    _refuse_content(
        "two delimiters",
        "a header that fits two delimiters",
        "wrong.csv",
        b"question,x;question\n",
        "path: the header of wrong.csv fits several delimiters; expected one: give format: csv, format: csv_semicolon",
    ),
    _refuse_content(
        "truncated array",
        "a JSON array that ends in its second row",
        "wrong.json",
        b'[{"question": "Why?"},\n{"question": "Whe',
        f"wrong.json: line 2: row 2 begins here, and the file ends before the row or the array does; {_COMPLETE}",
    ),
    _refuse_content(
        "bracket too many",
        "a row with a `]` that no `[` opens",
        "wrong.json",
        b'[{"question": "Why?"}, {"question": "When?", "a": 1]}]',
        f"wrong.json: line 1: row 2 begins here and has a ] too many; {_COMPLETE}",
    ),
    _refuse_content(
        "two arrays",
        "two JSON arrays in one file",
        "wrong.json",
        b'[{"question": "Why?"}]\n[{"question": "When?"}]',
        f"wrong.json: line 2: found more text after the end of the array; expected one array; {_COMPLETE}",
    ),
    _refuse_content(
        "lists of different length",
        "an object of lists with two questions and one answer",
        "wrong.json",
        b'{"question": ["Why?", "When?"], "answer": ["a"]}',
        "wrong.json: line 1: the lists have different lengths: 'question' has 2, 'answer' has 1; expected one length for all; "
        + _COMPLETE,
    ),
    _refuse_content(
        "object of other values",
        "a JSON object with its rows inside",
        "wrong.json",
        b'{"version": 2,\n"data": [{"question": "Why?"}]}',
        f'wrong.json: line 1: "version" is not a list; expected an array of objects or an object of lists; {_COMPLETE}',
    ),
    _refuse_content(
        "Parquet, truncated",
        "the first half of a `.parquet`",
        "wrong.parquet",
        _PARQUET[: len(_PARQUET) // 2],
        "path: wrong.parquet cannot be read as Parquet (…); expected a complete Parquet file: copy it again, or give its format",
    ),
    _refuse_content(
        "CSV named .parquet",
        "a table of text under another name",
        "wrong.parquet",
        b"question,note\nWhy?,a\n",
        "path: wrong.parquet cannot be read as Parquet (…); expected a complete Parquet file: copy it again, or give its format",
    ),
    _refuse_content(
        "Arrow, truncated",
        "an Arrow stream without its end",
        "wrong.arrow",
        _STREAM[:-8],
        "path: wrong.arrow cannot be read as Arrow (the end of the stream is missing); expected a complete Arrow file: "
        "copy it again, or give its format",
    ),
    _refuse_content(
        "gzip, truncated",
        "a `.jsonl.gz` without its last bytes",
        "wrong.jsonl.gz",
        gzip.compress(_LINES)[:-9],
        f"path: wrong.jsonl.gz: gzip: {_CUT}",
    ),
    _refuse_content(
        "zstd, truncated",
        "a `.csv.zst` without its last bytes",
        "wrong.csv.zst",
        _pack_zstd(b"question\n" + b"Why?\n" * 50)[:-2],
        f"path: wrong.csv.zst: zstd: {_CUT}",
    ),
    _refuse(
        "glob without a match",
        "`shards/*.jsonl` and no such file",
        {"shards/a.csv": b"question\nWhy?\n"},
        _AT + "no file matches 'shards/*.jsonl'; looked at shards/*.jsonl; expected at least one file",
        path="shards/*.jsonl",
    ),
    _refuse(
        "folder of two kinds",
        "a folder with a `.csv` and a `.jsonl`",
        {"shards/a.csv": b"question\nWhy?\n", "shards/b.jsonl": b'{"question": "Why?"}'},
        _AT
        + "shards holds files of several kinds (.csv, .jsonl); expected files of one kind: select them with a glob, for example "
        "shards/*.csv",
        path="shards",
    ),
    _refuse(
        "glob of two formats",
        "a glob that matches a `.csv` and a `.jsonl`",
        {"shards/a.csv": b"question\nWhy?\n", "shards/b.jsonl": b'{"question": "Why?"}'},
        "dataset 'wrong': path: shards/a.csv is csv and shards/b.jsonl is jsonl; expected files of one format: "
        "make a dataset for each format",
        path="shards/*",
    ),
    _refuse(
        "damage in the second file",
        "two files, and the second one is cut",
        {"shards/a.jsonl.gz": gzip.compress(_LINES), "shards/b.jsonl.gz": gzip.compress(_LINES)[:-9]},
        f"dataset 'wrong': path: shards/b.jsonl.gz: gzip: {_CUT}",
        path="shards",
    ),
)
