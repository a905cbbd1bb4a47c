"""Paths of media: paths without an image, and paths that must not be read."""

import base64
import os
import stat
from pathlib import Path

from PIL import Image

from tests.support.faults.bad_input import pictures
from tests.support.faults.bad_input.cases import RowCase, Write, write_nothing
from tests.support.faults.bad_input.contents import file, link, make_asking, make_table

_FORBIDDEN = "…: outside the folders that media may be read from (…); put the file there, set the dataset's media_root, …"
_MISSING = "…/{name}: no such file; check the path in the dataset, or set media_root to the folder of the images"

_LARGE = base64.b64encode(pictures.noisy("PNG"))  # too large to be copied into the plan, so it stays in the dataset's file
_IN_TABLE = make_table(b"1\tWhat is it?\tok\t" + _LARGE + b"\t")


def _deny(folder: Path) -> None:
    file("secret.png", pictures.plain())(folder)
    (folder / "secret.png").chmod(0)


def _deny_folder(folder: Path) -> None:
    file("closed/scan.png", pictures.plain())(folder)
    (folder / "closed").chmod(0)


def _make_large(folder: Path) -> None:
    with (folder / "large.png").open("wb") as stream:
        stream.truncate(200 * 2**20)


def _cut_table(folder: Path) -> None:
    os.truncate(folder / "rows.tsv", 300)


def _lengthen_table(folder: Path) -> None:
    with (folder / "rows.tsv").open("ab") as stream:
        stream.write(b"more\n" * 1000)


def _overwrite_table(folder: Path) -> None:
    path = folder / "rows.tsv"
    path.write_bytes(b"?" * path.stat().st_size)


def _replace_image(folder: Path) -> None:
    Image.new("RGB", (8, 6), "blue").save(folder / "replaced.png")


def _link_inside(folder: Path) -> None:
    file("real.png", pictures.plain())(folder)
    (folder / "link.png").symlink_to("real.png")


def _refuse(
    name: str,
    given: str,
    image: object,
    code: str,
    message: str,
    *,
    prepare: Write = write_nothing,
    change: Write = write_nothing,
) -> RowCase:
    return RowCase(name, given, code, message, make_asking(image), prepare=prepare, change=change)


PLACES = (
    _refuse("missing file", "the path of a missing file", "no.png", "media_missing", _MISSING.replace("{name}", "no.png")),
    _refuse(
        "broken link",
        "a link whose target does not exist",
        "gone.png",
        "media_missing",
        _MISSING.replace("{name}", "gone.png"),
        prepare=link("gone.png", "was-here.png"),
    ),
    _refuse(
        "deleted after planning",
        "an image that is deleted before a worker reads it",
        "soon.png",
        "media_missing",
        _MISSING.replace("{name}", "soon.png"),
        prepare=file("soon.png", pictures.plain()),
        change=lambda folder: (folder / "soon.png").unlink(),
    ),
    _refuse(
        "a directory",
        "the path of a folder",
        "folder",
        "media_unreadable",
        "…/folder: not a file; expected the path of an image",
        prepare=lambda folder: (folder / "folder").mkdir(),
    ),
    _refuse(
        "no permission",
        "a file that the worker may not read",
        "secret.png",
        "media_unreadable",
        "…/secret.png: cannot be read: Permission denied; check the path and its permissions",
        prepare=_deny,
    ),
    _refuse(
        "no permission for the folder",
        "a file in a folder that the worker may not enter",
        "closed/scan.png",
        "media_unreadable",
        "…/closed/scan.png: cannot be read: Permission denied; check the path and its permissions",
        prepare=_deny_folder,
    ),
    _refuse(
        "path through a file",
        "a path that uses a file as a folder",
        "photo.png/photo.png",
        "media_unreadable",
        "…/photo.png/photo.png: cannot be read: Not a directory; check the path and its permissions",
        prepare=file("photo.png", pictures.plain()),
    ),
    _refuse(
        "named pipe",
        "a pipe, which would block its reader",
        "pipe.png",
        "media_unreadable",
        "…/pipe.png: not a file; expected the path of an image",
        prepare=lambda folder: os.mkfifo(folder / "pipe.png"),
    ),
    _refuse(
        "socket",
        "a socket",
        "socket.png",
        "media_unreadable",
        "…/socket.png: not a file; expected the path of an image",
        prepare=lambda folder: os.mknod(folder / "socket.png", stat.S_IFSOCK | 0o600),
    ),
    _refuse(
        "circular link",
        "a link to itself",
        "loop.png",
        "media_unreadable",
        "…/loop.png: not a file; expected the path of an image",
        prepare=link("loop.png", "loop.png"),
    ),
    _refuse(
        "name too long",
        "a file name of 300 characters",
        "x" * 300 + ".png",
        "media_unreadable",
        "….png: cannot be read: File name too long; check the path and its permissions",
    ),
    _refuse(
        "file too large",
        "a file of 200 MB",
        "large.png",
        "media_too_large",
        "…/large.png: it has 209715200 bytes, but at most 134217728 are allowed; scale the image or video down",
        prepare=_make_large,
    ),
    _refuse(
        "relative path outside the folder",
        "`../../../../etc/passwd`",
        "../../../../../../../../../etc/passwd",
        "media_forbidden",
        _FORBIDDEN,
    ),
    _refuse("absolute path outside the folder", "`/etc/passwd`", "/etc/passwd", "media_forbidden", _FORBIDDEN),
    _refuse("file URL outside the folder", "`file:///etc/passwd`", "file:///etc/passwd", "media_forbidden", _FORBIDDEN),
    _refuse(
        "link to outside the folder",
        "a link to `/etc/passwd`",
        "link.png",
        "media_forbidden",
        _FORBIDDEN,
        prepare=link("link.png", "/etc/passwd"),
    ),
    _refuse(
        "image that is replaced after planning",
        "an image that is replaced by another one after the run was planned",
        "replaced.png",
        "media_changed",
        "…/replaced.png: its content has changed since the run was planned…",
        prepare=file("replaced.png", pictures.plain()),
        change=_replace_image,
    ),
    RowCase(
        "file that shrinks after planning",
        "a TSV that is cut after the run was planned",
        "media_corrupt",
        "…/rows.tsv[…]: the file is … bytes too short for the range; restore the file that the run was planned with",
        _IN_TABLE,
        "rows.tsv",
        change=_cut_table,
    ),
    RowCase(
        "file that is overwritten after planning",
        "a TSV that is overwritten with other content of the same length after the run was planned",
        "media_changed",
        "…/rows.tsv[…]: its content has changed since the run was planned…",
        _IN_TABLE,
        "rows.tsv",
        change=_overwrite_table,
    ),
    RowCase(
        "file that grows after planning",
        "a TSV to which rows are appended after the run was planned",
        "ok",
        "only the planned rows are processed",
        _IN_TABLE,
        "rows.tsv",
        change=_lengthen_table,
        seen="64x48 #…",
    ),
    RowCase(
        "link inside the folder",
        "a link to an image beside it",
        "ok",
        "used unchanged",
        make_asking("link.png"),
        prepare=_link_inside,
        seen="8x6 #ff0000",
    ),
)
