"""Redis over TLS: every client verifies the certificate, and no output shows the password."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import trustme
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from common.broker.app import make_app
from common.errors import ConfigError
from common.ledger.connection import connect_redis
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.servers.flower import CREDENTIALS, start_flower
from tests.support.servers.tls_proxy import start_tls_proxy
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

PASSWORD = "p@ss:w/ord%;+ ?#"  # noqa: S105  # of a server that exists for one test


@pytest.fixture
def ca_file(tmp_path: Path, authority: trustme.CA) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def use_address(fleet: Fleet, port: int, *, scheme: str = "rediss", password: str = PASSWORD, ca_file: Path | None = None) -> Fleet:
    """Add ``PASSWORD`` to the passwords of Redis. Return the fleet with another address of its Redis."""
    fleet.ledger.client.acl_setuser("default", enabled=True, passwords=[f"+{PASSWORD}"])
    query = f"?ssl_ca_certs={quote(str(ca_file))}" if ca_file else ""
    url = f"{scheme}://:{quote(password, safe='')}@127.0.0.1:{port}/0{query}"
    return replace(fleet, settings=fleet.settings.model_copy(update={"redis_url": SecretStr(url)}))


@contextmanager
def over_tls(fleet: Fleet, authority: trustme.CA, ca_file: Path | None, *, name: str = "127.0.0.1") -> Iterator[Fleet]:
    with start_tls_proxy(fleet.server.port, authority, name=name) as port:
        yield use_address(fleet, port, ca_file=ca_file)


def enqueue_something(fleet: Fleet) -> tuple[str, str]:
    fleet.write_profile("sealed")
    return "enqueue", str(fleet.write_spec("sealed", [fleet.write_dataset("rows", make_rows(8))]))


def assert_no_password(*output: str) -> None:
    for spelling in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), repr(PASSWORD)[1:-1]):
        assert all(spelling not in text for text in output)


def test_run_and_flower_work_over_tls(fleet: Fleet, authority: trustme.CA, ca_file: Path) -> None:
    with over_tls(fleet, authority, ca_file) as sealed:
        run_id = json.loads(sealed.run_producer(*enqueue_something(sealed), "--json"))["run_id"]
        sealed.start_workers("sealed", log_level="DEBUG")
        sealed.wait_for_workers("sealed")
        sealed.wait_for_end(run_id)
        shown = sealed.run_producer("status", run_id, "--json") + sealed.run_producer("watch", run_id)
        with start_flower(sealed, FLOWER_BASIC_AUTH=CREDENTIALS) as flower:
            wait_until(lambda: "fleet.sealed" in flower.ask("api/workers?refresh=1", CREDENTIALS)[1], "Flower to list the worker")
            status, queues = flower.ask("broker", CREDENTIALS)
            assert status == 200
            assert "fleet.sealed" in queues
            commands = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
            assert_no_password(shown, queues, flower.read_log(), sealed.read_log(), *commands)
            assert "Unable to get queues" not in flower.read_log()
        assert_run_is_sound(sealed, run_id)
        sealed.stop_workers()
    assert "insecure" not in fleet.read_log()


def test_unverified_certificate_is_refused_with_advice(fleet: Fleet, authority: trustme.CA) -> None:
    with over_tls(fleet, authority, None) as sealed:
        output = sealed.run_producer(*enqueue_something(sealed), code=2)
        command = [sys.executable, "-m", "workers", "start", "--model", "sealed", "--gpus", "none"]
        worker = subprocess.run(
            command, env=sealed.environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
    assert worker.returncode == 2
    for text in (output, worker.stderr):
        assert "its certificate cannot be verified" in text
        assert "ssl_ca_certs=FILE" in text
        assert "Traceback" not in text
    assert_no_password(output, worker.stdout, worker.stderr)


@pytest.mark.parametrize("fault", ["unknown authority", "another host"])
def test_celery_and_ledger_verify_the_certificate(fleet: Fleet, authority: trustme.CA, ca_file: Path, fault: str) -> None:
    name = "redis.example.org" if fault == "another host" else "127.0.0.1"
    with over_tls(fleet, authority, None if fault == "unknown authority" else ca_file, name=name) as sealed:
        with pytest.raises(OperationalError, match="certificate verify failed"):  # by default Celery accepts any certificate
            make_app(sealed.settings).connection().ensure_connection(max_retries=1, interval_start=0)
        with pytest.raises(ConfigError, match="its certificate cannot be verified"):
            connect_redis(sealed.settings, patience_s=0)


def test_wrong_password_is_refused_with_advice(fleet: Fleet) -> None:
    locked = use_address(fleet, fleet.server.port, scheme="redis", password="wr@ng/one")  # noqa: S106  # the fault
    output = locked.run_producer(*enqueue_something(locked), code=2)
    assert "rejects the user or password" in output
    assert "Traceback" not in output
    assert "wr@ng/one" not in output
    assert quote("wr@ng/one", safe="") not in output


@pytest.mark.parametrize(
    "url", ["redis://:hunter2/p@ss:word@127.0.0.1:6379/0", "redis://:hunter2@host:port/0", "unix:///hunter2.sock", "hunter2"]
)
def test_invalid_redis_url_is_refused_without_being_shown(fleet: Fleet, url: str) -> None:
    broken = replace(fleet, settings=fleet.settings.model_copy(update={"redis_url": SecretStr(url)}))
    output = broken.run_producer("status", "sealed-0", code=2)
    assert "FLEET_REDIS_URL: expected an address such as redis://:password@host:6379/0" in output
    assert "Traceback" not in output
    assert "hunter2" not in output
