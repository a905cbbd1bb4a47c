"""Faulty rows of JSON lines, and unusual rows that are valid."""

from typing import Any

from tests.support.faults.bad_input.cases import RowCase
from tests.support.faults.bad_input.contents import make_lines

_ROW = "rows.jsonl: line 2: "
_NO_QUESTION = _ROW + "field 'question': absent, null or blank; expected the question's text"
_NO_JSON = _ROW + "not JSON (…); expected a JSON object"
_LETTER = "expected one of the letters A, B, or one option's text"


def _refuse(name: str, given: str, row: dict[str, Any] | bytes, message: str, *, code: str = "bad_field") -> RowCase:
    return RowCase(name, given, code, message, make_lines(row))


def _refuse_field(name: str, given: str, fields: dict[str, Any], message: str) -> RowCase:
    """Return a case of a row with a question and ``fields``; the last field is faulty."""
    return _refuse(name, given, {"question": "Why?", **fields}, f"{_ROW}field {list(fields)[-1]!r}: {message}")


def _accept(name: str, given: str, row: dict[str, Any] | bytes, note: str) -> RowCase:
    return RowCase(name, given, "ok", note, make_lines(row))


LINES = (
    _refuse("missing field", "a row without a question", {"target": "ok"}, _NO_QUESTION, code="missing_question"),
    _refuse("empty question", '`"question": ""`', {"question": ""}, _NO_QUESTION, code="missing_question"),
    _refuse("blank question", "a question of spaces", {"question": " \t\n"}, _NO_QUESTION, code="missing_question"),
    _refuse("null question", '`"question": null`', {"question": None}, _NO_QUESTION, code="missing_question"),
    _refuse("wrong type", '`"question": 42`', {"question": 42}, _ROW + "field 'question': found 42 (a number); expected text"),
    _refuse(
        "list in place of text",
        '`"question": ["Why?"]`',
        {"question": ["Why?"]},
        _ROW + "field 'question': found ['Why?'] (a list); expected text",
    ),
    _refuse_field("object as hint", '`"hint": {"a": 1}`', {"hint": {"a": 1}}, "found {'a': 1} (an object); expected text"),
    _refuse_field(
        "NaN target", '`"target": NaN`', {"target": float("nan")}, "found nan (a number); expected text, a number, true or false"
    ),
    _refuse_field(
        "infinity among targets",
        '`"target": [1, Infinity]`',
        {"target": [1, float("inf")]},
        "found inf (a number); expected text, a number, true or false",
    ),
    _refuse_field(
        "object as target",
        '`"target": {"text": "a"}`',
        {"target": {"text": "a"}},
        "found {'text': 'a'} (an object); expected text, a number, true or false",
    ),
    _refuse_field(
        "unknown option letter",
        "options A and B, target `C`",
        {"options": ["yes", "no"], "target": "C"},
        f"found 'C'; {_LETTER}",
    ),
    _refuse_field(
        "target of two options",
        "two options with the same text, which is the target",
        {"options": ["same", "same"], "target": "same"},
        f"found 'same'; {_LETTER}",
    ),
    _refuse_field(
        "options as text",
        '`"options": "yes, no"`',
        {"options": "yes, no"},
        "found 'yes, no' (text); expected a mapping …, or a list of texts",
    ),
    _refuse_field(
        "options by number",
        '`"options": {"1": "yes"}`',
        {"options": {"1": "yes"}},
        "found '1' (text); expected a capital letter from A to Z for each option",
    ),
    _refuse_field(
        "27 options",
        "a list of 27 options",
        {"options": ["x"] * 27},
        "found ['x', …] (a list); expected at most 26 options, not 27",
    ),
    _refuse_field(
        "list among options",
        '`"options": ["yes", ["no"]]`',
        {"options": ["yes", ["no"]]},
        "found ['no'] (a list); expected text, a number, true or false",
    ),
    _refuse_field(
        "unknown kind of question",
        '`"kind": "yesno"`',
        {"kind": "yesno"},
        "found 'yesno' (text); expected one of multiple_choice, …; did you mean 'yes_no'?",
    ),
    _refuse_field("fraction as id", '`"id": 1.5`', {"id": 1.5}, "found 1.5 (a number); expected a whole number or text"),
    _refuse_field("empty id", '`"id": ""`', {"id": ""}, "found '' (text); expected a whole number or text"),
    _refuse_field("list as group", '`"group": [1]`', {"group": [1]}, "found [1] (a list); expected a whole number or text"),
    _refuse(
        "lone surrogate",
        r'a lone surrogate, as Python writes it: `"question": "\ud800?"`',
        b'{"question": "\\ud800?"}',
        _ROW + "field 'question': found a lone surrogate in …; expected text that UTF-8 can hold",
    ),
    _refuse(
        "bad UTF-8",
        "a line in Latin-1",
        b'{"question": "caf\xe9?"}',
        _ROW + "not UTF-8 (byte 18 of the row); expected a JSON object in UTF-8",
        code="bad_row",
    ),
    _refuse("no JSON", "a line of plain text", b"Why is the sky blue?", _NO_JSON, code="bad_row"),
    _refuse("cut line", "a line that ends in the middle", b'{"question": "Why', _NO_JSON, code="bad_row"),
    _refuse("NUL byte in a line", "a line with a zero byte", b'{"question": "Why\x00?"}', _NO_JSON, code="bad_row"),
    _refuse(
        "two objects in a line",
        "two rows without a line ending between them",
        b'{"question": "a"}{"question": "b"}',
        _NO_JSON,
        code="bad_row",
    ),
    _refuse(
        "a key twice in a row",
        '`{"question": "a?", "question": "b?"}`',
        b'{"question": "a?", "question": "b?"}',
        _ROW + "the key 'question' is given twice in one object; expected each key once",
        code="bad_row",
    ),
    _refuse(
        "a key twice in a nested object",
        '`"options": {"A": "yes", "A": "no"}`',
        b'{"question": "Why?", "options": {"A": "yes", "B": "or", "A": "no"}}',
        _ROW + "the key 'A' is given twice in one object; expected each key once",
        code="bad_row",
    ),
    _refuse("single quotes", "a row as Python prints it", b"{'question': 'Why?'}", _NO_JSON, code="bad_row"),
    _refuse(
        "list as a row",
        '`["Why?", "ok"]`',
        b'["Why?", "ok"]',
        _ROW + "found ['Why?', 'ok'] (a list); expected a JSON object",
        code="bad_row",
    ),
    _refuse("text as a row", '`"Why?"`', b'"Why?"', _ROW + "found 'Why?' (text); expected a JSON object", code="bad_row"),
    _refuse(
        "nested 10 000 deep",
        "JSON of 10 000 nested lists",
        b'{"question": "Why?", "a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        _ROW + "nested more than 64 levels deep; expected a flatter object",
        code="bad_row",
    ),
    _refuse(
        "nested 100 deep",
        "JSON of 100 nested lists",
        b'{"question": "Why?", "a": ' + b"[" * 100 + b"]" * 100 + b"}",
        _ROW + "nested more than 64 levels deep; expected a flatter object",
        code="bad_row",
    ),
    _refuse(
        "marker of a missing image",
        '`"question": "See <image 2>."` in a row without images',
        {"id": "m", "question": "See <image 2>."},
        "row m: <image 2> names a missing image, but the row has 0 images; correct the marker or add the image",
    ),
)

LONGEST_LINE_BYTES = 11_000_000  # a lower limit, so that the test does not write 256 MiB

LONG_LINES = (
    _refuse(
        "line of more than 256 MiB",
        "a file of another format, without line endings",
        b'{"question": "' + b"x" * LONGEST_LINE_BYTES + b'"}',
        _ROW + "longer than …; expected one JSON object per line",
        code="bad_row",
    ),
)

ODD_LINES = (
    _accept(
        "10 MB question",
        "a question of ten million letters",
        {"question": "x" * 10_000_000},
        "sent completely; an engine with a shorter context refuses it",
    ),
    _refuse(
        "question longer than the context",
        "1.1 million words for a model with a context of 1 million tokens",
        {"question": "word " * 1_100_000},
        "the prompt has … tokens, but the context of the model has 1000000; expected a prompt shorter than the context: …",
        code="too_long",
    ),
    _accept("control characters", r'`"question": "\u0007\u001b[31m?"`', {"question": "\a\x1b[31m?"}, "sent unchanged"),
    _accept("NUL in text", r'`"question": "a\u0000b?"`', {"question": "a\0b?", "target": "a\0b", "note": "\0"}, "sent unchanged"),
    _accept("5 MB field", "metadata of 5 MB", {"question": "Why?", "note": "x" * 5_000_000}, "kept with the result"),
    _accept("id of 10 kB", "an `id` of ten thousand letters", {"question": "Why?", "id": "x" * 10_000}, "kept unchanged"),
    _accept(
        "number too large for 64 bits", '`"id": 1e30` as digits', {"question": "Why?", "id": 10**30, "n": 10**30}, "kept as text"
    ),
    _accept("NaN in metadata", '`"score": NaN`', {"question": "Why?", "score": float("nan")}, "kept as null"),
    _accept(
        "null fields",
        "`null` in every field but the question",
        {"question": "Why?", "id": None, "options": None},
        "treated as absent",
    ),
    _accept(
        "10 000 fields",
        "a row of ten thousand fields",
        {"question": "Why?"} | {f"f{n}": n for n in range(10_000)},
        "kept with the result",
    ),
    _accept(
        "unusual field names",
        "field names with a space, a dot and a NUL",
        {"question": "Why?", "": 1, " ": 2, "a.b": 3, "\0": 4},
        "kept with the result",
    ),
    RowCase(
        "byte-order mark",
        "a file that begins with a BOM",
        "ok",
        "read without it",
        b"\xef\xbb\xbf" + make_lines({"question": "Why?"}),
    ),
    RowCase(
        "Windows line endings",
        "a file with CRLF",
        "ok",
        "read like a file with Unix line endings",
        make_lines({"question": "Why?"}).replace(b"\n", b"\r\n"),
    ),
    RowCase(
        "no last line ending",
        "a file that ends without a line ending",
        "ok",
        "read to the end",
        make_lines({"question": "Why?"}).rstrip(),
    ),
    RowCase(
        "duplicate ids",
        "two different questions with one `id`",
        "ok",
        "both are sent: a sample is identified by its content, not its id",
        make_lines({"id": "q7", "question": "Why?"}, {"id": "q7", "question": "When?"}),
        samples=2,
    ),
    RowCase(
        "the same row twice",
        "one row, two times",
        "ok",
        "sent once and counted as a duplicate",
        make_lines({"id": "q7", "question": "Why?"}, {"id": "q7", "question": "Why?"}),
        duplicates=1,
    ),
)
