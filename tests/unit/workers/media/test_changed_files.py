"""The reader rejects a file or a byte range that has changed since planning. It checks the digest before decoding."""

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


@pytest.mark.parametrize("source", ["path", "file URL", "base64 range"])
def test_changed_content_is_rejected(source: str, tmp_path: Path) -> None:
    path, access = tmp_path / "file", MediaAccess((tmp_path,), urls=False, url_timeout_s=1.0)
    stored = base64.b64encode(CONTENT) if source == "base64 range" else CONTENT
    path.write_bytes(stored)
    digest = digest_bytes(stored)
    assert read_media(make_media(path, source, digest), access) == CONTENT
    path.write_bytes(stored[::-1])
    with pytest.raises(SampleError, match="its content has changed since the run was planned") as caught:
        read_media(make_media(path, source, digest), access)
    assert caught.value.code == "media_changed"


def test_file_without_digest_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    assert (
        read_media(make_media(tmp_path / "file", "path", None), MediaAccess((tmp_path,), urls=False, url_timeout_s=1.0)) == CONTENT
    )
