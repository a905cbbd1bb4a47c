"""Image fields of rows: URLs, base64, and values that are neither."""

import base64
from textwrap import wrap

from tests.support.faults.bad_input import pictures
from tests.support.faults.bad_input.cases import RowCase
from tests.support.faults.bad_input.contents import make_asking, make_lines

_ADDRESS = "{url}: addresses are not enabled; set FLEET_MEDIA_URLS=1 on the workers, or download it and give its path"
_FORBIDDEN = ": outside the folders that media may be read from (…); put the file there, set the dataset's media_root, …"
_ROW = "rows.jsonl: line 2: field 'image': "
_RED = base64.b64encode(pictures.plain()()).decode()


def _refuse(name: str, given: str, image: object, code: str, message: str) -> RowCase:
    return RowCase(name, given, code, message, make_asking(image))


REFERENCES = (
    _refuse(
        "http address",
        "`http://127.0.0.1/x.png`",
        "http://127.0.0.1/x.png",
        "media_unsupported",
        _ADDRESS.replace("{url}", "http://127.0.0.1/x.png"),
    ),
    _refuse(
        "https address with a password",
        "`https://me:secret@example.org/x.png?token=abc`",
        "https://me:secret@example.org/x.png?token=abc",
        "media_unsupported",
        _ADDRESS.replace("{url}", "https://example.org/x.png"),
    ),
    _refuse(
        "address of object storage",
        "`s3://bucket/x.png`",
        "s3://bucket/x.png",
        "media_forbidden",
        "s3://bucket/x.png" + _FORBIDDEN,
    ),
    RowCase(
        "video",
        "a row with a `video`",
        "media_missing",
        "…/film.mp4: no such file; check the path in the dataset, or set media_root to the folder of the images",
        make_lines({"question": "What happens?", "video": "film.mp4"}),
    ),
    _refuse(
        "path with NUL",
        'a path with a NUL character: `"a\\u0000.png"`',
        "a\0.png",
        "bad_media",
        _ROW + "found 'a\\x00.png'… (6 characters); expected a path, a URL, or base64 behind data:image/png;base64,",
    ),
    _refuse(
        "path too long",
        "bare base64 of 5 000 characters in place of a path",
        "QUJD" * 1250,
        "bad_media",
        _ROW + "found 'QUJD…'… (5000 characters); expected a path, a URL, or base64 behind data:image/png;base64,",
    ),
    _refuse(
        "number as media",
        '`"image": ["a.png", 7]`',
        ["a.png", 7],
        "bad_field",
        _ROW + "found 7 (a number); expected a data: URL, a URL or a path, bytes, …, or a list of these",
    ),
    _refuse(
        "object as media",
        '`"image": {"file": "a.png"}`',
        {"file": "a.png"},
        "bad_field",
        _ROW + "found {'file': 'a.png'} (an object); expected an object with one of bytes, url and path",
    ),
    _refuse(
        "data URL without base64",
        "`data:image/png,abc`",
        "data:image/png,abc",
        "bad_media",
        _ROW + "found 'data:image/png,abc'; expected data:<type>;base64,<base64 text>",
    ),
    _refuse(
        "empty data URL",
        "`data:image/png;base64,`",
        "data:image/png;base64,",
        "bad_media",
        _ROW + "found nothing in the base64 text of a data: URL; expected only base64 characters",
    ),
    _refuse(
        "bad base64",
        "a data URL with `*` in its base64",
        "data:image/png;base64,QU*D",
        "bad_media",
        _ROW + "found '*' in the base64 text of a data: URL; expected only base64 characters",
    ),
    _refuse(
        "base64 of the wrong length",
        "a data URL whose base64 lost its last character",
        "data:image/png;base64,QUJDR",
        "media_corrupt",
        "inline image: not valid base64: …",
    ),
    _refuse(
        "base64 of text",
        "a data URL that holds the text `ABC`",
        "data:image/png;base64,QUJD",
        "media_corrupt",
        "inline image: not an image in a known format; expected one of PNG, JPEG, …",
    ),
    _refuse(
        "base64 of an unknown image",
        "base64 of a BMP without `data:` before it",
        base64.b64encode(b"BM" + bytes(300)).decode(),
        "bad_media",
        _ROW
        + "found 'Qk0AAAAAAAAAAAAAAAAAAAAA'… (404 characters); expected a path, a URL, or base64 behind data:image/png;base64,",
    ),
    RowCase(
        "base64 in lines",
        "the base64 of an image in lines of 76 characters, as in MIME",
        "ok",
        "the line breaks are removed",
        make_asking("\r\n".join(wrap(_RED, 76))),
        seen="8x6 #ff0000",
    ),
    RowCase(
        "base64 of URLs",
        "base64 with `-` and `_` in place of `+` and `/`, and without `=` at its end",
        "ok",
        "read as the same base64 in standard characters",
        make_asking(_RED.replace("+", "-").replace("/", "_").rstrip("=")),
        seen="8x6 #ff0000",
    ),
    RowCase("empty image field", '`"image": ""`', "ok", "sent without an image", make_asking("")),
)
