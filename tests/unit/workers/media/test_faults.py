"""Machine faults during media reads are transient: the worker retries the sample and does not store an outcome."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.errors import SampleError, TransientError
from common.records import Media
from tests.support.fleet import ROOT
from tests.support.media.media import AS_IS, load_image
from tests.support.servers.https_server import PUBLIC
from workers.media.files import MediaAccess
from workers.media.images import open_image

SIZE = (5, 4)
_STREAM = io.BytesIO()
Image.new("RGB", SIZE, "red").save(_STREAM, "PNG")
PNG = _STREAM.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return the path of an image below a symlinked root. Home folders on clusters are often symlinks."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(PNG)
    (tmp_path / "linked").symlink_to("real")
    return tmp_path / "linked" / "a.png"


def load(uri: str | Path, *roots: Path) -> tuple[int, int]:
    return load_image(Media(uri=str(uri)), MediaAccess(tuple(map(str, roots)), urls=False, url_timeout_s=1)).size


def fail_once(monkeypatch: pytest.MonkeyPatch, function: str, number: int, name: str) -> None:
    """Make a function of ``os`` raise a system error once, for the first file of this name."""
    original: Callable[..., Any] = getattr(os, function)
    faults = [OSError(number, os.strerror(number))]

    def fail(path: Any, *given: Any, **options: Any) -> Any:
        if isinstance(path, str | Path) and Path(path).name == name and faults:
            raise faults.pop()
        return original(path, *given, **options)

    monkeypatch.setattr(os, function, fail)


# A script for a separate process that cannot open files after its imports.
WITHOUT_DESCRIPTORS = """
import resource, sys
from pathlib import Path
from common.errors import SampleError, TransientError
from common.records import Media
from tests.support.media.media import load_image
from workers.media.files import MediaAccess
from workers.media.urls import check_url, make_tls

uri, is_warm = sys.argv[1:]
check_url("https://good.example/", "warm")
if is_warm == "True":
    make_tls()
resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    load_image(Media(uri=uri), MediaAccess(("/",), urls=True, url_timeout_s=20))
except (SampleError, TransientError) as error:
    print(type(error).__name__, error)
"""


# Files.

TEMPORARY = ["EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ENOTCONN", "ESHUTDOWN", "ETIMEDOUT", "EHOSTDOWN", "ECONNRESET", "EAGAIN"]


@pytest.mark.parametrize("error", TEMPORARY)
def test_temporary_system_error_is_transient(image: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    number = getattr(errno, error)
    fail_once(monkeypatch, "open", number, "a.png")
    with pytest.raises(TransientError) as caught:
        load(image, image.parent)
    assert str(caught.value) == f"{image}: cannot be read now: {os.strerror(number)}"
    assert load(image, image.parent) == SIZE


@pytest.mark.parametrize(
    ("function", "name"),
    [("lstat", "linked"), ("readlink", "linked"), ("lstat", "a.png"), ("open", "real"), ("stat", "a.png")],
)
def test_fault_at_any_path_component_is_transient(image: Path, monkeypatch: pytest.MonkeyPatch, function: str, name: str) -> None:
    fail_once(monkeypatch, function, errno.ESTALE, name)
    with pytest.raises(TransientError, match="cannot be read now"):
        load(image, image.parent)
    assert load(image, image.parent) == SIZE


def test_fault_while_reading_file_is_transient(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenFile(io.BytesIO):
        def fileno(self) -> int:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def open_broken_file(descriptor: int, mode: str) -> BrokenFile:
        os.close(descriptor)
        return BrokenFile()

    monkeypatch.setattr(os, "fdopen", open_broken_file)
    with pytest.raises(TransientError, match="cannot be read now"):
        load(image, image.parent)


@pytest.mark.parametrize("error", ["EIO", "EACCES", "ENAMETOOLONG"])
def test_permanent_system_error_is_a_sample_error(image: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    fail_once(monkeypatch, "open", getattr(errno, error), "a.png")
    with pytest.raises(SampleError) as caught:
        load(image, image.parent)
    assert caught.value.code == "media_unreadable"


# No free file descriptors.


@pytest.mark.parametrize("uri", [__file__, f"https://{PUBLIC}/a.png", "https://unknown.invalid/a.png"])
@pytest.mark.parametrize("is_warm", [True, False], ids=["TLS context cached", "TLS context missing"])
def test_lack_of_file_descriptors_is_transient(uri: str, is_warm: bool) -> None:
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS, uri, str(is_warm)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    what = "read" if uri == __file__ else "fetched"
    assert done.stdout == f"TransientError {uri}: cannot be {what} now: Too many open files\n"


# Memory.


def test_memory_error_reports_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_image(PNG, "small.png", AS_IS)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(opened.image, "load", fail)
    with pytest.raises(SampleError) as caught:
        opened.decode()
    assert (caught.value.code, str(caught.value)) == (
        "media_too_large",
        "small.png: it does not fit into memory; scale the image down",
    )
