"""The tokenizer of tab-separated records, compared with Python's csv module."""

import csv
import io
from collections import Counter
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producer.datasets.readers import tsv
from producer.datasets.readers.tsv import Record, read_cell, read_records, split_record

Quoting = Literal[0, 1]  # the types of csv.QUOTE_MINIMAL and csv.QUOTE_ALL in typeshed
CELLS = st.text(alphabet="ab é\"'\t\n,[]\0", max_size=6)
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6)
QUOTING: st.SearchStrategy[Quoting] = st.sampled_from([0, 1])


def tokenize(content: bytes) -> list[list[str]]:
    records = read_records(io.BytesIO(content))
    return [[read_cell(record.content, span).decode() for span in split_record(record.content)] for record in records]


@given(TABLES, QUOTING, st.sampled_from(["\n", "\r\n"]))
@example([["a\r", "\rb"]], csv.QUOTE_ALL, "\r\n")
def test_records_of_csv_writer_are_parsed(table: list[list[str]], quoting: Quoting, end: str) -> None:
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator=end).writerows(table)
    assert tokenize(stream.getvalue().encode()) == table


@given(st.text(alphabet='ab"\t\n', max_size=30))
def test_stray_quotes_are_parsed_like_csv(text: str) -> None:
    expected = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t") if row]
    records = list(read_records(io.BytesIO(text.encode())))
    if all(record.is_whole for record in records):
        assert tokenize(text.encode()) == expected


@given(st.text(alphabet='ab"\t\r\n', max_size=40).map(str.encode))
def test_records_have_their_offset_and_line(content: bytes) -> None:
    for record in read_records(io.BytesIO(content)):
        assert content[record.offset : record.offset + len(record.content)] == record.content
        assert content[: record.offset].count(b"\n") == record.line - 1
        spans = split_record(record.content)
        assert spans[0][0] == 0
        assert spans[-1][1] == len(record.content)
        assert all(after[0] == before[1] + 1 for before, after in pairwise(spans))


@given(st.text(alphabet='a"\t\n', max_size=40))
def test_record_does_not_depend_on_earlier_records(text: str) -> None:
    content = text.encode()
    for record in read_records(io.BytesIO(content)):
        (first, *_) = read_records(io.BytesIO(content[record.offset :]))
        assert (first.content, first.is_whole) == (record.content, record.is_whole)


def test_unclosed_quotes_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    search, searched = tsv._find_closing_quote, Counter[bytes]()  # noqa: SLF001  a search takes the time

    def find_closing_quote(content: bytes, at: int) -> int:
        searched[content] += 1
        return search(content, at)

    monkeypatch.setattr(tsv, "_find_closing_quote", find_closing_quote)
    records = list(read_records(io.BytesIO(b'a"\t"b\n' * 300)))
    assert [(record.line, record.is_whole) for record in records] == [(line, False) for line in range(1, 301)]
    assert searched.total() < 2000


def test_unclosed_quote_affects_one_line() -> None:
    assert list(read_records(io.BytesIO(b'a\tb\nc\t"d\ne\tf\n'))) == [
        Record(1, 0, b"a\tb", is_whole=True),
        Record(2, 4, b'c\t"d', is_whole=False),
        Record(3, 9, b"e\tf", is_whole=True),
    ]


def test_record_over_limit_affects_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsv, "RECORD_LIMIT_BYTES", 16)
    records = list(read_records(io.BytesIO(b'"a\n' + b"bbbbbbb\n" * 4 + b'c"\n')))
    assert [(record.line, record.is_whole) for record in records][:2] == [(1, False), (2, True)]


def test_fields_of_five_megabytes_are_read() -> None:
    big = "x" * 5_000_000
    assert tokenize(f'1\t"{big}"\t{big}\n'.encode()) == [["1", big, big]]
