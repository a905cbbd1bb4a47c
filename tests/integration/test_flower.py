"""Flower as a user starts it: readable names, a password, only the loopback address, and read-only access."""

import json
import os
import pty
import re
import subprocess

import psutil
import pytest
from flower.urls import handlers  # type: ignore[import-untyped]  # Flower has no types

from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.servers.flower import COMMAND, CREDENTIALS, Flower, start_flower, start_gpu_workers
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until

STATES = ("workers", "tasks", "worker/", "broker", "api/workers?refresh=1", "api/tasks", "api/queues/length", "api/task/types")


def list_changing_paths() -> list[str]:
    """Return every path of Flower's API that accepts POST, with a placeholder for names."""
    named = [(entry.regex.pattern, entry.handler_class) if hasattr(entry, "regex") else entry[:2] for entry in handlers]
    return sorted(
        pattern.strip("^$").lstrip("/").replace("(.+)", "placeholder")
        for pattern, handler in named
        if pattern.startswith("/api/") and "post" in vars(handler)
    )


def test_flower_shows_workers_by_gpu_and_readable_chunks(fleet: Fleet) -> None:
    fleet.write_profile("watched", engine_options={"delay_s": 0.2})
    spec = fleet.write_spec("watched", [fleet.write_dataset("rows", make_rows(188))], chunks={"max_samples": 8})
    gpus = ("gpu0@node1", "gpu1@node1")
    with start_flower(fleet, FLOWER_BASIC_AUTH=CREDENTIALS) as flower, start_gpu_workers(fleet, "watched", *gpus):
        wait_until(lambda: all(gpu in flower.ask("workers?json=1", CREDENTIALS)[1] for gpu in gpus), "Flower to list the workers")
        run_id = fleet.enqueue(spec).run_id

        def find_chunks() -> dict[str, dict[str, str]]:
            chunks = json.loads(flower.ask("api/tasks", CREDENTIALS)[1]).values()
            return {chunk["args"]: chunk for chunk in chunks if chunk["state"] == "SUCCESS"}

        wait_until(
            lambda: all(one.samples_per_s for one in fleet.status(run_id).workers), "both workers to report their throughput"
        )
        assert [(one.worker, one.device) for one in fleet.status(run_id).workers] == [(gpu, gpu[:4]) for gpu in gpus]
        fleet.wait_for_end(run_id)
        sizes = [8] * 23 + [4]
        names = {f"watched · {run_id} · chunk {number} · {size} samples" for number, size in enumerate(sizes)}
        chunks = wait_until(lambda: found if names <= {*(found := find_chunks())} else None, "Flower to show every chunk")
        # A janitor that finds the run before its messages are published also publishes them, without sizes.
        assert {*chunks} - names <= {name.rpartition(" · ")[0] for name in names}
        assert {chunk["worker"] for chunk in chunks.values()} == {*gpus}
        assert set(json.loads(flower.ask("api/workers?refresh=1", CREDENTIALS)[1])) == {*gpus}

        columns = re.findall(r'data-column="(\w+)"', flower.ask("tasks", CREDENTIALS)[1])
        assert columns == ["args", "state", "result", "received", "runtime", "worker"]
        table = flower.ask("tasks/datatable?draw=1&start=0&length=50&order[0][column]=0&columns[0][data]=args", CREDENTIALS)[1]
        shown = {row["args"] for row in json.loads(table)["data"]}
        sized = {f"chunk {number} · {size} samples · {run_id}" for number, size in enumerate(sizes)}
        assert sized <= shown
        assert not any("samples" in janitors for janitors in shown - sized)
    assert_run_is_sound(fleet, run_id)


def test_flower_requires_password_and_is_read_only(fleet: Fleet) -> None:
    fleet.write_profile("watched")
    run_id = fleet.enqueue(fleet.write_spec("watched", [fleet.write_dataset("rows", make_rows(8))])).run_id
    with start_flower(fleet, FLOWER_BASIC_AUTH=CREDENTIALS) as flower:
        fleet.start_workers("watched")
        (worker,) = fleet.wait_for_workers("watched")
        fleet.wait_for_end(run_id)
        wait_until(lambda: worker.worker in flower.ask("api/workers?refresh=1", CREDENTIALS)[1], "Flower to list the worker")
        wait_until(lambda: run_id in flower.ask("api/tasks", CREDENTIALS)[1], "Flower to show the chunk")

        paths = [f"worker/{worker.worker}" if path == "worker/" else path for path in STATES]
        assert {flower.ask(path)[0] for path in paths} == {401}
        assert {flower.ask(path, "researcher:wrong")[0] for path in paths} == {401}
        shown = [flower.ask(path, CREDENTIALS) for path in paths]
        assert {status for status, _ in shown} == {200}

        changing = list_changing_paths()
        assert {
            "api/worker/shutdown/placeholder",
            "api/worker/queue/cancel-consumer/placeholder",
            "api/task/send-task/placeholder",
        } <= {*changing}
        asked = [path.replace("placeholder", worker.worker) for path in changing]
        assert {path: flower.ask(path, CREDENTIALS, "POST")[0] for path in asked} == dict.fromkeys(asked, 403)
        assert {path: flower.ask(path, method="POST")[0] for path in asked} == dict.fromkeys(asked, 401)

        listening = [
            one.laddr for one in psutil.Process(flower.process.pid).net_connections("inet") if one.status == psutil.CONN_LISTEN
        ]
        assert [(address.ip, f"http://127.0.0.1:{address.port}") for address in listening] == [("127.0.0.1", flower.url)]

        seen = "\n".join([flower.read_log(), *psutil.Process(flower.process.pid).cmdline(), *(body for _, body in shown)])
        assert CREDENTIALS.partition(":")[2] not in seen
        assert fleet.server.url.split("@")[0].rpartition(":")[2] not in seen  # the password of Redis
        assert [(one.worker, one.pid, one.state) for one in fleet.workers("watched")] == [(worker.worker, worker.pid, "ready")]
    assert_run_is_sound(fleet, run_id)


def test_metrics_and_health_do_not_require_password(fleet: Fleet) -> None:
    with start_flower(fleet, FLOWER_BASIC_AUTH=CREDENTIALS) as flower:
        assert flower.ask("healthcheck") == (200, "OK")
        assert flower.ask("metrics")[0] == 200  # therefore Flower listens on loopback


def test_user_options_take_precedence_and_open_address_warns(fleet: Fleet) -> None:
    with start_flower(fleet, "--address=0.0.0.0", "--read_only=false", FLOWER_BASIC_AUTH=CREDENTIALS) as flower:
        assert flower.ask("api/worker/shutdown/unknown", CREDENTIALS, "POST")[0] == 404
        assert "flower.unencrypted" in flower.read_log()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "flower: no credentials: set FLOWER_BASIC_AUTH=user:password"),
        ({"FLOWER_BASIC_AUTH": "only-a-password"}, "expected user:password"),
        ({"FLOWER_BASIC_AUTH": "user:"}, "expected user:password"),
    ],
)
def test_flower_without_terminal_requires_credentials(fleet: Fleet, given: dict[str, str], words: str) -> None:
    environment = {**fleet.environment(), **given}
    done = subprocess.run(COMMAND, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "only-a-password" not in done.stdout + done.stderr


def test_flower_on_terminal_shows_generated_password_once(fleet: Fleet) -> None:
    ours, terminal = pty.openpty()
    log = fleet.folder / "flower.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(COMMAND, env=fleet.environment(), cwd=ROOT, stdout=stream, stderr=terminal)
    os.close(terminal)
    with open(ours, "rb", buffering=0) as screen, log.open("ab") as copy:  # noqa: PTH123  # a descriptor, not a path
        try:
            while b"Visit me at" not in log.read_bytes():
                copy.write(screen.read(4096))
                copy.flush()
            flower = Flower(process, log)
            credentials = re.findall(r"user (\S+), password (\S+), valid until Flower exits", flower.read_log())
            assert len(credentials) == 1
            assert flower.ask("workers")[0] == 401
            assert flower.ask("workers", ":".join(credentials[0]))[0] == 200
        finally:
            process.terminate()
            process.wait(timeout=20)
