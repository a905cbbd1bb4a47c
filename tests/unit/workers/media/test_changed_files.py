"""The reader rejects a file or a byte range that has changed since planning."""

import base64
from pathlib import Path

import pytest

from common.digests import digest_bytes
from common.errors import SampleError
from common.records import Media
from workers.media.files import MediaAccess
from workers.media.reader import read_media

CONTENT = b"the bytes of a picture"


def make_media(path: Path, source: str, digest: str | None) -> Media:
    if source == "path":
        return Media(uri=str(path), digest=digest)
    if source == "file URL":
        return Media(uri=f"file://{path}", digest=digest)
    return Media(uri=str(path), offset=0, length=path.stat().st_size, encoding="base64", digest=digest)


def allow(folder: Path) -> MediaAccess:
    return MediaAccess((str(folder),), urls=False, url_timeout_s=1.0)


@pytest.mark.parametrize(
    ("source", "is_decoded"), [("path", True), ("file URL", True), ("base64 range", True), ("base64 range", False)]
)
def test_changed_content_is_rejected(source: str, is_decoded: bool, tmp_path: Path) -> None:
    """Plans of earlier versions have the digest of the base64 text of a range, in place of that of the decoded bytes."""
    path, access = tmp_path / "file", allow(tmp_path)
    stored = base64.b64encode(CONTENT) if source == "base64 range" else CONTENT
    path.write_bytes(stored)
    digest = digest_bytes(CONTENT if is_decoded else stored)
    assert read_media(make_media(path, source, digest), access) == CONTENT
    path.write_bytes(base64.b64encode(CONTENT[::-1]) if source == "base64 range" else stored[::-1])
    with pytest.raises(SampleError, match="its content has changed since the run was planned") as caught:
        read_media(make_media(path, source, digest), access)
    assert caught.value.code == "media_changed"


def test_changed_range_that_is_not_base64_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"{not base64}")
    with pytest.raises(SampleError, match="its content has changed since the run was planned"):
        read_media(make_media(path, "base64 range", digest_bytes(CONTENT)), allow(tmp_path))


def test_file_without_digest_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    assert read_media(make_media(tmp_path / "file", "path", None), allow(tmp_path)) == CONTENT
