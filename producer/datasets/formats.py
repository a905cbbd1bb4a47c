"""Find the format of a file by its content if its ending does not determine it.

Three endings stand for several formats: ``.json`` for a JSON array, JSON lines or COCO, ``.csv`` for several delimiters, and
``.tsv`` for VLMEvalKit's TSV or a plain table. A file with an unknown ending or without an ending is recognised by its first bytes
or its header.
"""

import re
from io import BufferedReader, BytesIO
from itertools import islice

import msgspec

from common.errors import ConfigError
from common.spec.models import DatasetSource
from common.storage.files import is_file, open_file
from producer.datasets.readers.lines import open_text, skip_bom
from producer.datasets.readers.tsv import Record, read_cell, read_records, split_record
from producer.datasets.rows import plan_reading

_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"FEA1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_TABLE_FORMATS = {b",": "csv", b";": "csv_semicolon", b"\t": "tsv"}
_COCO = re.compile(rb'"(images"\s*:\s*\[\s*\{[^{}]*"file_name"|questions"\s*:\s*\[\s*\{[^{}]*"question_id")\s*:')
_QUESTIONS = re.compile(rb'"question"\s*:\s*\[')
_HEAD_BYTES = 2**20
_FIRST_LINE_BYTES = 16 * 2**20
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_LONGEST_SAMPLE = 1024


def refine_format(source: DatasetSource, by_ending: str | None) -> str | None:
    """Return the format of the source's file, or None if its format cannot be found. ``by_ending`` is the format of its ending.

    Raises ``ConfigError`` if the content fits several formats equally well.
    """
    if by_ending not in (None, "json", "csv", "tsv", "vlmeval_tsv"):
        return by_ending
    if not is_file(source.path):  # the caller reports the error
        return by_ending
    if by_ending is None:
        with open_file(source.path) as stream:
            begin = stream.read(max(map(len, _MAGIC)))
        if found := next((name for magic, name in _MAGIC.items() if begin.startswith(magic)), None):
            return found
    with open_text(source) as stream:
        skip_bom(stream)
        begin = stream.peek(1).lstrip()[:1]
        if by_ending == "json" or (by_ending is None and begin in (b"[", b"{")):
            if begin == b"{" and _has_json_lines(stream, source):
                return "jsonl"
            return "coco" if begin == b"{" and _is_coco(source) else "json"
        head = stream.read(_HEAD_BYTES)
    return _find_table_format(source, head, by_ending)


def _has_json_lines(stream: BufferedReader, source: DatasetSource) -> bool:
    """Return whether the first line is a whole object that is the only row, or that another object follows."""
    try:
        found = msgspec.json.decode(stream.readline(_FIRST_LINE_BYTES))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    names = plan_reading(source).names["question"]
    return stream.peek(1).lstrip().startswith(b"{") or any(isinstance(found.get(name), str) for name in names)


def _is_coco(source: DatasetSource) -> bool:
    """Return whether a JSON object begins like COCO captions or VQA questions, and does not have a list ``question``."""
    with open_text(source) as stream:
        head = stream.read(_HEAD_BYTES)
    return _COCO.search(head) is not None and not _QUESTIONS.search(head)


def _find_table_format(source: DatasetSource, head: bytes, by_ending: str | None) -> str | None:
    is_tsv = by_ending in ("tsv", "vlmeval_tsv")
    headers = {delimiter: _read_names(head, delimiter) for delimiter in ([b"\t"] if is_tsv else _TABLE_FORMATS)}
    if is_tsv:
        return "vlmeval_tsv" if _is_vlmeval(source, head, headers[b"\t"]) else "tsv"
    known = plan_reading(source).ours.keys()
    hits = {delimiter: len(known & set(names)) for delimiter, names in headers.items()}
    most = max(hits.values())
    best = [delimiter for delimiter in headers if hits[delimiter] == most]
    if most == 0:
        if by_ending is None:
            return None
        best = [max(headers, key=lambda delimiter: len(headers[delimiter]))]
    if len({tuple(headers[delimiter]) for delimiter in best}) > 1:
        names = ", ".join(f"format: {_TABLE_FORMATS[delimiter]}" for delimiter in best)
        raise ConfigError(
            f"dataset {source.name!r}: path: the header of {source.path} fits several delimiters; expected one: give {names}"
        )
    return "csv" if len(best) > 1 else _TABLE_FORMATS[best[0]]


def _is_vlmeval(source: DatasetSource, head: bytes, names: list[str]) -> bool:
    """Return whether a TSV is VLMEvalKit's: it has a column of questions, and its images are not paths or addresses."""
    if source.fields.get("question", "question") not in names:
        return False
    image = next((name for name in plan_reading(source).names["image"] if name in names), None)
    if source.fields.get("id", "index") in names or image is None:
        return True
    records = islice(read_records(BytesIO(head)), 1, None)
    cells = (_read_bytes(record, b"\t", names.index(image)).strip()[:_LONGEST_SAMPLE] for record in records)
    return not next(filter(None, cells), b"").translate(None, _BASE64 + b"[]'\", ")


def _read_names(head: bytes, delimiter: bytes) -> list[str]:
    record = next(read_records(BytesIO(head), delimiter), None)
    if record is None:
        return []
    cells = range(len(split_record(record.content, delimiter)))
    return [_read_bytes(record, delimiter, number).decode("utf-8", "replace").strip() for number in cells]


def _read_bytes(record: Record, delimiter: bytes, number: int) -> bytes:
    spans = split_record(record.content, delimiter)
    return read_cell(record.content, spans[number]) if number < len(spans) else b""
