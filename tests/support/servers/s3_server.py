"""A real S3 server for tests: moto over HTTP, in a thread of the test process."""

import logging
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from common.storage.addresses import split_address
from common.storage.store import open_store

BUCKET_NAME_BYTES = 6


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Yield the address of a running S3 server, for example ``http://127.0.0.1:41327``."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # werkzeug would log a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", _one_at_a_time(S3Response.put_object))
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()
    listener = server._server  # noqa: SLF001  # moto's stop() leaves its socket open, which pytest reports as a leak
    if listener is not None:
        listener.server_close()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return ``s3://<a new bucket>/root``, and set the environment so that this process and its children reach it."""
    use_server(s3_endpoint, monkeypatch)
    bucket = f"test-{secrets.token_hex(BUCKET_NAME_BYTES)}"
    put_empty(f"{s3_endpoint}/{bucket}")
    return f"s3://{bucket}/root"


def use_server(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment so that this process and its children use a server."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def put_empty(url: str) -> None:
    """Create a bucket, or an empty object whose key may end with ``/``."""
    request = urllib.request.Request(url, method="PUT")  # noqa: S310  # a local server of the test
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310  # the same


def upload_folder(folder: Path, address: str) -> None:
    """Copy the files of a folder to an address, with their relative paths. Links are followed."""
    for path in folder.rglob("*"):
        if path.is_file():
            upload_file(f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def upload_file(address: str, content: bytes) -> None:
    bucket, key = split_address(address)
    open_store(bucket).put(key, content)


def _one_at_a_time(put_object: Any) -> Any:
    """Make moto's conditional put atomic, as in S3. Moto checks for the object and writes it later, which allows races."""
    lock = threading.Lock()

    def put_object_alone(response: S3Response) -> Any:
        with lock:
            return put_object(response)

    return put_object_alone
