"""Media in object storage: objects that are missing or change, and addresses that must not be read."""

from pathlib import Path

from tests.support.faults.bad_input.cases import RowCase, Write, write_nothing
from tests.support.faults.bad_input.contents import make_asking
from tests.support.media.pictures import make_png
from tests.support.servers.s3_server import upload_file

BUCKET = "bad-input"
_ROOT = f"s3://{BUCKET}/media"
_FORBIDDEN = "…: outside the folders that media may be read from (…); put the file there, set the dataset's media_root, …"


def _upload(name: str, content: bytes) -> Write:
    def upload(folder: Path) -> None:
        del folder
        upload_file(f"s3://{BUCKET}/{name}", content)

    return upload


def _case(
    name: str,
    given: str,
    image: str,
    outcome: str,
    message: str,
    *,
    root: str = _ROOT,
    prepare: Write = write_nothing,
    change: Write = write_nothing,
    seen: str | None = None,
    digest_media: str = "auto",
) -> RowCase:
    source = {"media_root": root, "digest_media": digest_media}
    return RowCase(
        name, given, outcome, message, make_asking(image), prepare=prepare, change=change, seen=seen, source=source
    )  # fmt: skip


REMOTE = (
    _case(
        "image in object storage", f"`a b.png`, with `media_root: {_ROOT}`", "a b.png", "ok", "read with the settings of the store",
        prepare=_upload("media/a b.png", make_png()), seen="8x8 #ff0000",
    ),
    _case(
        "missing object", "no such object", "missing.png", "media_missing",
        f"{_ROOT}/missing.png: no such object; check the path in the dataset, or set media_root to the folder of the images",
        digest_media="never",
    ),
    _case(
        "missing bucket", "`media_root` in a bucket that does not exist", "a.png", "media_missing",
        "s3://no-such-bucket/a.png: no such bucket; check the path in the dataset, or set media_root to the folder of the images",
        root="s3://no-such-bucket", digest_media="never",
    ),
    _case(
        "empty object", "an object of 0 bytes", "empty.png", "media_corrupt",
        f"{_ROOT}/empty.png: it is empty (0 bytes); expected an image", prepare=_upload("media/empty.png", b""),
    ),
    _case(
        "object that is replaced after planning", "another image under the same key", "replaced.png", "media_changed",
        f"{_ROOT}/replaced.png: its content has changed since the run was planned; put the file back, or enqueue again",
        prepare=_upload("media/replaced.png", make_png()), change=_upload("media/replaced.png", make_png("blue")),
    ),
    _case(
        "key outside the prefix", "`../secret.png`", "../secret.png", "media_forbidden", _FORBIDDEN,
        prepare=_upload("secret.png", make_png()),
    ),
    _case(
        "prefix with a longer name", f"`s3://{BUCKET}/media2/a.png`", f"s3://{BUCKET}/media2/a.png", "media_forbidden", _FORBIDDEN,
        prepare=_upload("media2/a.png", make_png()),
    ),
    _case(
        "key with a control character", 'a key with `\\u0001`', "a\x01.png", "media_unreadable",
        "…: cannot be read: not a valid key; check the address and its permissions", digest_media="never",
    ),
)  # fmt: skip
