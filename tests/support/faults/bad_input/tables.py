"""Faulty rows of TSV files, and unusual rows that are valid."""

import base64

from tests.support.faults.bad_input import pictures
from tests.support.faults.bad_input.cases import RowCase
from tests.support.faults.bad_input.contents import TSV_HEADER, make_table

_ROW = "rows.tsv: line 3: "
_RED = base64.b64encode(pictures.plain()())
_LARGE = base64.b64encode(pictures.noisy("PNG"))
_CELL = "field 'image': "


def _refuse(name: str, given: str, line: bytes, message: str, *, code: str = "bad_row", place: str = _ROW) -> RowCase:
    return RowCase(name, given, code, place + message, make_table(line), "rows.tsv")


def _accept(name: str, given: str, content: bytes, note: str) -> RowCase:
    return RowCase(name, given, "ok", note, content, "rows.tsv")


TABLES = (
    RowCase(
        "id of a clip without a file",
        "`clip_000` in the column `video`, and no such file",
        "bad_media",
        _ROW + "field 'video': found 'clip_000', which is not a file in …; expected the path of a video; …",
        make_table(b"1\tWhy?\tok\tclip_000\t", header=TSV_HEADER.replace(b"image", b"video")),
        "rows.tsv",
    ),
    _refuse(
        "ragged row, short",
        "a row of three cells under a header of five",
        b"1\tWhy?\tok",
        "found 3 cells; expected 5, as in the header",
    ),
    _refuse(
        "ragged row, long",
        "a row of six cells under a header of five",
        b"1\tWhy?\tok\t\t\tmore",
        "found 6 cells; expected 5, as in the header",
    ),
    _refuse(
        "unclosed quote",
        "a cell with an unclosed quote",
        b'1\t"Why?\tok\t\t',
        "a cell has an unclosed quote; expected a closing quote",
    ),
    _refuse(
        "the header twice",
        "the header repeated between the rows, as after joining two files",
        b"index\tquestion\tanswer\timage\tneighbour",
        "found the header again; expected a row; when you join files, keep only the first header",
    ),
    _refuse(
        "bad UTF-8 in a cell",
        "a cell in Latin-1",
        b"1\tcaf\xe9?\tok\t\t",
        "field 'question': not UTF-8 (byte 4 of the cell); expected UTF-8",
    ),
    _refuse(
        "empty question cell",
        "a row without a question",
        b"1\t\tok\t\t",
        "field 'question': absent, null or blank; expected the question's text",
        code="missing_question",
    ),
    _refuse(
        "path in the image column",
        "`cat.png` in place of base64",
        b"1\tWhy?\tok\tcat.png\t",
        _CELL + "found 'cat.png'; expected base64 text, or the index of another row with an image",
        code="bad_media",
    ),
    _refuse(
        "index of a missing row",
        "`77` in the image column, and no row 77",
        b"1\tWhy?\tok\t77\t",
        _CELL + "found '77'; expected base64 text, or the index of another row with an image",
        code="bad_media",
    ),
    _refuse(
        "index of a row without image",
        "the index of a row that does not have an image",
        b"1\tWhy?\tok\t8001\t",
        _CELL + "found '8001', a row without an image; expected the index of a row with an image",
        code="bad_media",
    ),
    _refuse(
        "data URL in the image column",
        "a data URL in place of bare base64",
        b"1\tWhy?\tok\tdata:image/png;base64," + _RED + b"\t",
        _CELL + "found 'data:image/png;base64,iV'…; expected base64 text (paths and URLs belong in image_path)",
        code="bad_media",
    ),
    _refuse(
        "bad base64 in a cell",
        "base64 with a `*` in it",
        b"1\tWhy?\tok\t" + b"*" + _RED + b"\t",
        "inline image: not valid base64: …",
        code="media_corrupt",
        place="",
    ),
    _refuse(
        "truncated base64 in a cell",
        "the first half of an image's base64",
        b"1\tWhy?\tok\t" + _LARGE[: len(_LARGE) // 8 * 4] + b"\t",
        "inline image: cannot be decoded: OSError: image file is truncated; replace the image",
        code="media_corrupt",
        place="",
    ),
    _accept("tab inside quotes", "a quoted cell with a tab in it", make_table(b'1\t"a\tb?"\tok\t\t'), "the tab is text"),
    _accept(
        "line ending inside quotes", "a quoted cell of two lines", make_table(b'1\t"a\nb?"\tok\t\t'), "the line ending is text"
    ),
    _accept(
        "CRLF",
        "a TSV with Windows line endings",
        make_table(b"1\tWhy?\tok\t\t").replace(b"\n", b"\r\n"),
        "read like a TSV with Unix line endings",
    ),
    _accept(
        "byte-order mark in a TSV",
        "a TSV that begins with a BOM",
        b"\xef\xbb\xbf" + make_table(b"1\tWhy?\tok\t\t"),
        "read without it",
    ),
    _accept(
        "5 MB cell",
        "a question of five million letters",
        make_table(b"1\t" + b"x" * 5_000_000 + b"\tok\t\t"),
        "the whole question is sent",
    ),
    _accept("NUL in a cell", "a cell with a zero byte", make_table(b"1\ta\0b?\tok\t\t"), "sent unchanged"),
    _accept("blank lines", "empty lines between the rows", make_table(b"\n\n1\tWhy?\tok\t\t\n"), "skipped"),
)
