"""Faulty dataset files: the command reports them before the run starts."""

import lzma
import os
from pathlib import Path

from tests.support.faults.bad_input.cases import CommandCase, Write, write_nothing
from tests.support.faults.bad_input.contents import file

_AT = "spec.yaml: datasets.0.path: "
_KNOWN = "known formats: arrow, … (by ending: .arrow, …)"
_PARQUET = b"PAR1" + bytes(100)


def _refuse(name: str, given: str, path: str, message: str, prepare: Write, *, more: str = "") -> CommandCase:
    spec = f"model: quick\ndatasets: [{{path: {path}, name: wrong{more}}}]\n"
    return CommandCase(name, given, f"producer: {message}", spec=spec, prepare=prepare)


def _refuse_content(name: str, given: str, path: str, content: bytes, message: str, *, more: str = "") -> CommandCase:
    return _refuse(name, given, path, f"dataset 'wrong': {message}", file(path, lambda: content), more=more)


def _deny(folder: Path) -> None:
    (folder / "wrong.jsonl").write_text("{}")
    (folder / "wrong.jsonl").chmod(0)


DATASETS = (
    _refuse_content(
        "images under an unknown name",
        "a file whose column `img` holds data URLs, and no other media",
        "wrong.jsonl",
        b'{"question": "What is it?", "img": "data:image/png;base64,aaaa"}\n',
        "…wrong.jsonl: column 'img' holds media in 1 rows, and no field uses it, so the questions would be sent without media; "
        "expected fields: {image: img} in the dataset, or ignore: [img] to send them without it",
    ),
    _refuse_content(
        "rows without questions",
        "a file whose rows have no field `question`",
        "wrong.jsonl",
        b'{"ask": "What is it?", "label": "x"}\n' * 3,
        "wrong.jsonl: no row has a question; columns: ask, label; expected fields: {question: COLUMN, target: label} in the "
        "dataset, or question: TEXT in the dataset, which is the question of every row",
    ),
    _refuse_content(
        "only faulty rows",
        "a file whose rows have blank questions",
        "wrong.jsonl",
        b'{"question": " "}\n' * 3,
        "all of its rows are faulty (3). The first fault: missing_question: wrong.jsonl: line 1: field 'question': absent, null or "
        "blank; expected the question's text. Correct the file, or map its columns with fields: {NAME: COLUMN}",
    ),
    _refuse_content(
        "column both mapped and ignored",
        "`fields: {hint: clue}, ignore: [clue]`",
        "wrong.jsonl",
        b'{"question": "What is it?", "clue": "x"}\n',
        "fields.hint maps 'clue', and ignore lists it; expected one of the two",
        more=", fields: {hint: clue}, ignore: [clue]",
    ),
    _refuse(
        "dataset missing",
        "the path of a missing file",
        "wrong.jsonl",
        _AT + "no file 'wrong.jsonl'; looked at wrong.jsonl; expected a dataset's file",
        write_nothing,
    ),
    _refuse(
        "dataset is an empty folder",
        "the path of an empty folder",
        "wrong",
        _AT + "no file 'wrong'; looked at wrong; it is an empty folder; expected a dataset's file",
        lambda folder: (folder / "wrong").mkdir(),
    ),
    _refuse(
        "dataset is a pipe",
        "the path of a named pipe, which can be read only once",
        "wrong.jsonl",
        _AT + "no file 'wrong.jsonl'; looked at wrong.jsonl; expected a dataset's file",
        lambda folder: os.mkfifo(folder / "wrong.jsonl"),
    ),
    _refuse(
        "dataset without permission",
        "a file without read permission",
        "wrong.jsonl",
        _AT + "wrong.jsonl cannot be read: Permission denied; check its permissions",
        _deny,
    ),
    _refuse(
        "dataset path too long",
        "a path of 5 000 characters",
        "x" * 5000,
        _AT + "no file 'xxx…...; looked at …; expected a dataset's file",
        write_nothing,
    ),
    _refuse_content(
        "empty dataset",
        "an empty file",
        "wrong.jsonl",
        b"",
        "wrong.jsonl holds no rows; expected at least one; check that the file is complete",
    ),
    _refuse_content(
        "empty TSV",
        "an empty file that ends in `.tsv`",
        "wrong.tsv",
        b"",
        "wrong.tsv: the file is empty; expected a header with the names of the columns",
    ),
    _refuse_content(
        "TSV with only a header",
        "a header and no rows",
        "wrong.tsv",
        b"index\tquestion\n",
        "wrong.tsv holds no rows; expected at least one; check that the file is complete",
    ),
    _refuse_content(
        "unknown ending",
        "a `.txt` of sentences",
        "wrong.txt",
        b"Why is the sky blue?\n",
        f"path: no reader for files like wrong.txt; give its format: NAME; {_KNOWN}",
    ),
    _refuse_content(
        "Parquet named .jsonl",
        "a Parquet file under another name",
        "wrong.jsonl",
        _PARQUET,
        "path: wrong.jsonl is a Parquet file; give its format: parquet",
    ),
    _refuse_content(
        "xz named .jsonl",
        "a file compressed with xz",
        "wrong.jsonl",
        lzma.compress(b'{"question": "Why?"}'),
        "path: wrong.jsonl is compressed with xz; unpack it, or compress it with gzip or zstd",
    ),
    _refuse_content(
        "UTF-16",
        "a TSV as a spreadsheet saves it",
        "wrong.tsv",
        "index\tquestion\n1\tWhy?\n".encode("utf-16"),
        "path: wrong.tsv is text in UTF-16; save it in UTF-8",
    ),
    _refuse_content(
        "unknown format",
        "`format: jsonlines`",
        "wrong.jsonl",
        b"{}",
        f"format: unknown format 'jsonlines'; did you mean 'jsonl'?; {_KNOWN}",
        more=", format: jsonlines",
    ),
    _refuse_content(
        "header without question",
        "a TSV with the columns `id` and `quesion`",
        "wrong.tsv",
        b"id\tquesion\n1\tWhy?\n",
        "wrong.tsv: the header has no column 'question'; did you mean 'quesion'?; found id, quesion; "
        "expected a header with our names, or fields: {question: quesion}",
    ),
    _refuse_content(
        "a column twice",
        "a header with two columns `question`",
        "wrong.tsv",
        b"question\tquestion\n1\tWhy?\n",
        "wrong.tsv: two columns are called 'question'; expected one: rename the other",
    ),
    _refuse_content(
        "header in Latin-1",
        "a header that is not UTF-8",
        "wrong.tsv",
        b"index\tquestion\tcaf\xe9\n",
        "wrong.tsv: the header is not UTF-8 (byte 4 of a name); expected UTF-8",
    ),
    _refuse_content(
        "field missing in every row",
        "`fields: {id: qid}` and no row with a `qid`",
        "wrong.jsonl",
        b'{"question": "Why?", "id": 1}',
        "fields.id: wrong.jsonl has no field 'qid'; did you mean 'id'?; expected one of: id, question",
        more=", fields: {id: qid}",
    ),
    _refuse_content(
        "ignored column missing in every row",
        "`ignore: [categry]` and no row with a `categry`",
        "wrong.jsonl",
        b'{"question": "Why?", "category": 1}',
        "ignore: wrong.jsonl has no column 'categry'; did you mean 'category'?; expected some of: category, question",
        more=", ignore: [categry]",
    ),
    _refuse_content(
        "unknown field name",
        "`fields: {taget: answer}`",
        "wrong.jsonl",
        b'{"question": "Why?"}',
        "fields: 'taget' is not a known field name; did you mean 'target'?; expected NAME: FILE FIELD, where NAME is one of …",
        more=", fields: {taget: answer}",
    ),
)
