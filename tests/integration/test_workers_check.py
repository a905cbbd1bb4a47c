"""``workers check`` as a user calls it: on a ready node, with an unreachable service, and with settings that must change."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pytest

from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.hardware.fake_gpus import with_gpus
from tests.support.workers import enqueue_rows

ALWAYS_CHECKED = ("redis", "redis access", "redis memory", "redis durability", "clock", "store", "versions", "profile", "engine")


def run_check(environment: Mapping[str, str], *arguments: str, code: int) -> str:
    command = [sys.executable, "-m", "workers", "check", *arguments]
    done = subprocess.run(command, env={**environment}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def check_as_json(environment: Mapping[str, str], *arguments: str, code: int) -> dict[str, Any]:
    """Return the findings by their subject."""
    report = json.loads(run_check(environment, *arguments, "--json", code=code))
    assert report["exit_code"] == code
    return {finding["what"]: finding for finding in report["findings"]}


def test_ready_node_reports_success(fleet: Fleet) -> None:
    fleet.write_profile("some")
    found = check_as_json(fleet.environment(), "--model", "some", "--gpus", "none", code=0)
    assert {what: found[what]["level"] for what in ALWAYS_CHECKED} == dict.fromkeys(ALWAYS_CHECKED, "ok")
    assert found["redis access"]["found"] == "no TLS, a password, on this machine"
    assert found["redis durability"]["found"] == "append-only file on"
    assert fleet.settings.store_url in found["store"]["found"]
    text = run_check(fleet.environment(), "--model", "some", "--gpus", "none", code=0)
    assert "this node can run" in text.splitlines()[-1]
    assert fleet.server.url.split("@")[0].rpartition(":")[2] not in text, "the password"


def test_store_of_a_new_fleet_may_be_missing(fleet: Fleet) -> None:
    fleet.write_profile("some")
    store = fleet.folder / "store"
    store.rename(fleet.folder / "away")
    found = check_as_json(fleet.environment(), "--model", "some", "--gpus", "none", code=0)
    assert (found["store"]["level"], found["store"]["found"]) == ("warning", f"{store} does not exist yet")
    (fleet.folder / "away").rename(store)
    enqueue_rows(fleet, "some", make_rows(4))
    store.rename(fleet.folder / "away")
    found = check_as_json(fleet.environment(), "--model", "some", "--gpus", "none", code=3)
    assert (found["store"]["level"], found["redis"]["level"]) == ("problem", "ok")


def test_gpus_and_chosen_options_are_reported(fleet: Fleet) -> None:
    fleet.write_profile("some", engine="hf", weights=str(ROOT / "examples" / "tiny" / "model"))
    is_for_cpus = version("torch").endswith("+cpu")
    environment = with_gpus(fleet.environment(), 2)
    found = check_as_json(environment, "--model", "some", "--replicas", "2", code=2 if is_for_cpus else 0)
    slots = [f"slot gpu{number}.{replica}" for number in (0, 1) for replica in (1, 2)]
    assert [what for what in found if what.startswith(("driver", "gpu", "slot"))] == ["driver", "gpu0", "gpu1", *slots]
    assert found["slot gpu0.1"]["found"] == "some: 79.0 GiB free of 80.0, divided among 2: max_batch_size=16 (from 21 GiB up)"
    assert found["weights"]["level"] == found["engine"]["level"] == "ok"
    assert ("torch" in found) == is_for_cpus, "torch is reported only if it lacks CUDA on a machine with GPUs"


@pytest.mark.parametrize("fault", ["down", "hanging"])
def test_unreachable_redis_exits_with_3_after_all_checks(fleet: Fleet, fault: str) -> None:
    fleet.write_profile("some")
    if fault == "down":
        fleet.server.stop()
    else:
        os.kill(fleet.server.pid, signal.SIGSTOP)
    try:
        found = check_as_json(fleet.environment(), "--model", "some", "--gpus", "none", code=3)
    finally:
        if fault == "down":
            fleet.server.restart()
        else:
            os.kill(fleet.server.pid, signal.SIGCONT)
    assert found["redis"]["unreachable"]
    assert f"Redis at 127.0.0.1:{fleet.server.port}" in found["redis"]["found"]
    assert found["store"]["level"] == found["engine"]["level"] == "ok"


def test_unreachable_store_exits_with_3(fleet: Fleet) -> None:
    environment = {
        **fleet.environment(store_url="s3://bucket/fleet"),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # a port without a listener
        "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "hunter2-hunter2", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    found = check_as_json(environment, "--gpus", "none", code=3)
    assert found["store"]["unreachable"]
    assert "does not answer" in found["store"]["found"]
    assert found["redis"]["level"] == "ok"


def test_user_error_takes_precedence_over_unreachable_service(fleet: Fleet) -> None:
    """The exit code is 2, not 3, if the user must also change something."""
    fleet.ledger.client.config_set("maxmemory", "1gb")
    fleet.ledger.client.config_set("maxmemory-policy", "allkeys-lru")
    found = check_as_json(fleet.environment(), "--gpus", "none", code=2)
    assert "set maxmemory-policy noeviction" in found["redis memory"]["advice"]
    fleet.server.stop()
    found = check_as_json(fleet.environment(), "--model", "no-such-model", "--gpus", "none", code=2)
    fleet.server.restart()
    assert found["redis"]["unreachable"]
    assert "model profile 'no-such-model' not found" in found["profile"]["found"]


def test_wrong_password_exits_with_2_and_is_hidden(fleet: Fleet) -> None:
    environment = {**fleet.environment(), "FLEET_REDIS_URL": f"redis://:hunter2@127.0.0.1:{fleet.server.port}/0"}
    text = run_check(environment, "--gpus", "none", code=2)
    assert "rejects the user or password" in text
    assert "hunter2" not in text
