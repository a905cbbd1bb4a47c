"""Secrets of the environment do not appear in command output, logs, records or the store."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from tests.support.engines.leaky_engine import SIGNED
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.soundness import assert_run_is_sound

REDIS_PASSWORD = "r3d1s/p@ss:%w0rd"  # noqa: S105  # of a server that exists for one test
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzE-session",
    "OPENAI_API_KEY": "openai-key-for-tests",
    "HF_TOKEN": "hub-token-for-tests",
    "FLEET_OTHER_PASSWORD": "correct horse battery",
}


@pytest.fixture
def secret_fleet(fleet: Fleet, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Return a fleet on S3 with many secrets in its environment, at log level DEBUG."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("FLEET_LOG_LEVEL", "DEBUG")
    fleet.ledger.client.acl_setuser("default", enabled=True, passwords=[f"+{REDIS_PASSWORD}"])
    url = f"redis://:{quote(REDIS_PASSWORD, safe='')}@127.0.0.1:{fleet.server.port}/0"
    return replace(fleet, settings=fleet.settings.model_copy(update={"redis_url": SecretStr(url), "store_url": s3_url}))


def run(fleet: Fleet, *command: str, code: int = 0) -> str:
    """Return a command's standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", *command], env=fleet.environment(), cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def read_everything(fleet: Fleet) -> str:
    """Return the content of the store, with tables as text."""
    texts = []
    for key in fleet.store.list_keys():
        content = fleet.store.get(key)
        texts.append(content.decode(errors="replace"))
        if key.endswith(".parquet"):
            texts.append(str(pq.ParquetFile(io.BytesIO(content)).read().to_pylist()))
    return "\n".join(texts)


def assert_no_secret(outputs: dict[str, str]) -> None:
    secrets = [*SECRETS.values(), REDIS_PASSWORD, "X-Amz-Signature=51", "AKIAABCDEFGHIJKLMNOP"]
    for where, text in outputs.items():
        for secret in secrets:
            for spelling in (secret, quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]):
                assert spelling not in text, f"{spelling} appears in {where}"


def test_secrets_are_masked_at_every_log_level(secret_fleet: Fleet) -> None:
    secret_fleet.write_profile("leaky", engine="tests.support.engines.leaky_engine:LeakyEngine", engine_options={})
    rows: list[dict[str, object]] = [*make_rows(6), {"id": "leak", "question": "leak?"}]
    spec = str(secret_fleet.write_spec("leaky", [secret_fleet.write_dataset("rows", rows)], chunks={"max_samples": 4}))
    outputs = {"dry run": run(secret_fleet, "producer", "enqueue", spec, "--dry-run")}
    outputs["enqueue"] = run(secret_fleet, "producer", "enqueue", spec, "--json")
    run_id = json.loads(next(line for line in outputs["enqueue"].splitlines() if line.startswith("{")))["run_id"]
    secret_fleet.start_workers("leaky")
    (worker,) = secret_fleet.wait_for_workers("leaky")
    secret_fleet.wait_for_end(run_id)
    for command in ("stats", "conf"):
        outputs[command] = run(secret_fleet, "celery", "-A", "workers.app", "inspect", "--timeout=20", "-d", worker.worker, command)
    outputs["celery report"] = run(secret_fleet, "celery", "-A", "workers.app", "report")
    secret_fleet.stop_workers()
    outputs["status"] = run(secret_fleet, "producer", "status", run_id, "--json")
    outputs["watch"] = run(secret_fleet, "producer", "watch", run_id, code=1)
    results = secret_fleet.folder / "results"
    outputs["collect"] = run(secret_fleet, "producer", "collect", run_id, "--out", str(results), "--json", code=1)
    outputs["results"] = (results / "results.jsonl").read_text()
    outputs["log"] = secret_fleet.read_log()
    outputs["store"] = read_everything(secret_fleet)

    assert_no_secret(outputs)
    assert "loading" in outputs["log"]
    assert "request failed" in outputs["log"]
    assert "cannot get https://bucket.example.org/image.png?***" in outputs["results"]
    assert SIGNED.partition("?")[0] in outputs["store"]
    assert_run_is_sound(secret_fleet, run_id)


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ({"engine_options": {"client": {"api_key": "sk-1234"}}}, "engine_options.client.api_key"),
        ({"engine_options": {"base_url": "https://me:sk-1234@host/v1"}}, "engine_options.base_url"),
        ({"api_key": "sk-1234"}, "api_key: unknown field"),
    ],
)
def test_profile_with_secret_is_refused_without_showing_it(fleet: Fleet, written: dict[str, Any], field: str) -> None:
    fleet.write_profile("keyed", **written)
    spec = fleet.write_spec("keyed", [fleet.write_dataset("rows", make_rows(1))])
    output = fleet.run_producer("enqueue", str(spec), code=2)
    assert field in output
    assert "sk-1234" not in output
    assert list(fleet.store.list_keys()) == []


def test_invalid_setting_is_refused_without_showing_secrets(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_OTHER_PASSWORD", "correct-horse")
    monkeypatch.setenv("FLEET_LEASE_S", "correct-horse")
    output = run(
        replace(fleet, settings=fleet.settings.model_copy(update={"lease_s": "correct-horse"})), "producer", "status", "x", code=2
    )
    assert "FLEET_LEASE_S: found '***'; expected a valid number" in output
