"""Findings of ``workers check`` and their levels. ``test_workers_check.py`` tests them with real services."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from common.errors import ConfigError, ServiceUnreachable
from common.settings import Settings, get_settings
from common.storage.store import StoreFull
from tests.support.engines.requests import make_profile
from tests.support.faults.closed_folders import close_folder
from tests.support.hardware.fake_gpus import GIB, FakeGpu, fake_nvml, make_gpu
from workers.doctor.finding import Finding, find_exit_code, report_fault
from workers.doctor.machine import check_disk, check_gpus, check_versions, judge_gpu, judge_space
from workers.doctor.model import check_context, check_model
from workers.doctor.report import print_findings, to_json
from workers.doctor.services import check_store, find_store_folder, judge_access, judge_clock, judge_durability, judge_memory

OK = Finding("store", "ok", "fine")
WARNING = Finding("clock", "warning", "61.00 s ahead", "run an NTP client")
PROBLEM = Finding("weights", "problem", "[red]cut short[/red]", "copy it again")
UNREACHABLE = Finding("redis", "problem", "does not respond", unreachable=True)


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([OK], 0),
        ([OK, WARNING], 0),
        ([OK, UNREACHABLE], 3),
        ([PROBLEM], 2),
        ([UNREACHABLE, PROBLEM], 2),
        ([PROBLEM, UNREACHABLE, WARNING], 2),
    ],
)
def test_worst_finding_determines_the_exit_code(findings: list[Finding], code: int) -> None:
    assert find_exit_code(findings) == code


def test_errors_become_masked_problems() -> None:
    assert report_fault("redis", ServiceUnreachable("redis://:hunter2@host:6379/0")) == Finding(
        "redis", "problem", "redis://***@host:6379/0", unreachable=True
    )
    assert report_fault("store", StoreFull("full")).unreachable, "an operator can free space without a change of settings"
    assert not report_fault("profile", ConfigError("wrong")).unreachable


def print_to(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)
    print_findings([OK, WARNING, PROBLEM], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_terminal_each_finding_is_a_line() -> None:
    lines = print_to(terminal=False).splitlines()
    assert lines[:3] == [
        "ok       store: fine",
        "warning  clock: 61.00 s ahead; run an NTP client",
        "problem  weights: [red]cut short[/red]; copy it again",
    ]
    assert lines[3].endswith("this node cannot run; problems: 1, warnings: 1")


def test_terminal_shows_table_of_80_columns() -> None:
    text = print_to(terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("problem", "[red]cut short[/red]", "copy it again", "this node cannot run"):
        assert part in text


def test_json_report_is_one_object() -> None:
    report = json.loads(to_json([OK, UNREACHABLE]))
    assert set(report) == {"host", "exit_code", "findings"}
    assert report["exit_code"] == 3
    assert report["findings"][1] == {
        "what": "redis", "level": "problem", "found": "does not respond", "advice": "", "unreachable": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "level", "found"),
    [
        ("redis://127.0.0.1:6379/0", "ok", "no TLS, no password, on this machine"),
        ("redis://localhost/0", "ok", "no TLS, no password, on this machine"),
        ("redis://:secret@[::1]:6379/0", "ok", "no TLS, a password, on this machine"),
        ("redis://10.0.0.7:6379/0", "warning", "no TLS, no password"),
        ("rediss://node7:6379/0", "warning", "TLS, no password"),
        ("redis://:secret@node7:6379/0", "warning", "no TLS, a password"),
        ("rediss://:secret@node7:6379/0", "ok", "TLS, a password"),
    ],
)
def test_access_level_depends_on_the_address(url: str, level: str, found: str) -> None:
    finding = judge_access(url)
    assert (finding.level, finding.found) == (level, found)
    assert bool(finding.advice) == (level != "ok")


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({}, "ok"),
        ({"maxmemory": 4 * GIB, "maxmemory_policy": "noeviction"}, "ok"),
        ({"maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, "ok"),
        ({"maxmemory": 4 * GIB, "maxmemory_policy": "allkeys-lru"}, "problem"),
        ({"maxmemory": 4 * GIB, "maxmemory_policy": "volatile-ttl"}, "problem"),
        ({"maxmemory": GIB, "maxmemory_policy": "noeviction"}, "warning"),
    ],
)
def test_key_eviction_is_a_problem(info: dict[str, Any], level: str) -> None:
    assert judge_memory({"used_memory": GIB, **info}).level == level


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"aof_enabled": 1, "role": "master"}, "ok"),
        ({"aof_enabled": 0, "role": "master"}, "warning"),
        ({}, "warning"),
        ({"aof_enabled": 1, "role": "slave"}, "problem"),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "problem"),
    ],
)
def test_redis_without_persistence_or_writes_is_reported(info: dict[str, Any], level: str) -> None:
    assert judge_durability(info).level == level


def test_clock_offset_is_reported_with_direction() -> None:
    assert judge_clock(-0.25) == Finding("clock", "ok", "0.25 s behind the clock of Redis")
    assert (judge_clock(61).level, judge_clock(61).found) == ("warning", "61.00 s ahead of the clock of Redis")
    assert judge_clock(-61).level == "warning"


def test_unusable_store_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = check_store(Settings(store_url=str(tmp_path / "file" / "store")))
    assert (finding.level, finding.unreachable) == ("problem", False)
    assert "cannot read this folder: Not a directory" in finding.found


def test_missing_store_folder_is_not_created(tmp_path: Path) -> None:
    (finding,) = check_store(Settings(store_url=str(tmp_path / "store")))
    assert (finding.level, finding.unreachable) == ("problem", True), "its file system may not be mounted"
    assert "producer enqueue" in finding.found
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("url", "folder"), [("file:///a/b", "/a/b"), ("/a/b", "/a/b"), ("s3://bucket/a", None)])
def test_only_local_stores_have_a_folder(url: str, folder: str | None) -> None:
    assert find_store_folder(Settings(store_url=url)) == (folder and Path(folder))


@pytest.mark.parametrize(("free_gib", "level"), [(500, "ok"), (9, "warning"), (0.5, "problem")])
def test_nearly_full_disk_is_reported(free_gib: float, level: str) -> None:
    finding = judge_space("store", Path("/store"), int(free_gib * GIB))
    assert (finding.what, finding.level) == ("disk: store", level)


def test_disk_below_unreadable_folder_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_folder(monkeypatch, tmp_path / "closed")
    findings = {finding.what: finding for finding in check_disk(Settings(store_url=str(tmp_path / "closed" / "store")))}
    finding = findings["disk: store"]
    assert (finding.level, finding.found) == ("problem", f"{tmp_path}/closed/store: Permission denied")
    assert "GiB free" in findings["disk: temporary files"].found, "the other findings are also reported"


def test_gpu_in_use_is_reported_with_processes() -> None:
    assert judge_gpu(make_gpu(0), []) == Finding("gpu0", "ok", "NVIDIA H100 80GB HBM3, 79.1 GiB free of 80.0")
    occupied = judge_gpu(make_gpu(1, free_gib=30), [7, 8])
    assert (occupied.level, occupied.found.endswith("used by processes 7, 8")) == ("warning", True)
    assert judge_gpu(make_gpu(2, free_gib=None, total_gib=None), []).level == "ok"


def levels_of(findings: list[Finding]) -> dict[str, str]:
    return {finding.what: finding.level for finding in findings}


def test_only_requested_gpus_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", free=GIB, pids=(7,))])
    assert levels_of(check_gpus([(None, None)], 1)) == {"driver": "ok", "gpu0": "ok", "gpu1": "warning"}
    assert levels_of(check_gpus([(None, "0")], 1)) == {"driver": "ok", "gpu0": "ok"}
    assert levels_of(check_gpus([(None, "0-7")], 1)) == {"driver": "ok", "gpus": "problem"}
    found = check_gpus([(None, None)], 1)[0].found
    assert found == "driver 580.82.07 for CUDA up to 13.2; 2 of 2 GPUs usable"


def test_missing_gpu_is_problem_only_if_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, None)
    assert levels_of(check_gpus([(None, None)], 1)) == {"gpus": "warning"}
    assert levels_of(check_gpus([(None, "none")], 1)) == {"gpus": "ok"}
    assert levels_of(check_gpus([(None, "all")], 1)) == {"gpus": "problem"}


def test_driver_error_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, "broken")
    (finding,) = check_gpus([(None, "all")], 1)
    assert (finding.what, finding.level, finding.unreachable) == ("gpus", "problem", False)
    assert "the NVIDIA driver fails: Driver Not Loaded" in finding.found
    assert levels_of(check_gpus([(None, None)], 1)) == {"gpus": "warning"}
    assert "torch" not in levels_of(check_versions([(None, "all")]))


@pytest.mark.parametrize(
    ("requested", "version", "is_problem"),
    [
        ([(None, "all")], "2.13.0+cpu", True),
        ([(None, None)], "2.13.0+cpu", True),
        ([("a", "none"), ("b", "0")], "2.13.0+cpu", True),
        ([(None, "none")], "2.13.0+cpu", False),
        ([("a", "none"), ("b", "none")], "2.13.0+cpu", False),
        ([(None, "all")], "2.13.0", False),
    ],
)
def test_cpu_torch_is_problem_only_with_gpus(
    monkeypatch: pytest.MonkeyPatch, requested: list[tuple[str | None, str | None]], version: str, is_problem: bool
) -> None:
    fake_nvml(monkeypatch, [FakeGpu()])
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert levels_of(check_versions(requested)) == {"versions": "ok", **({"torch": "problem"} if is_problem else {})}


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEET_PROFILES_DIR", str(tmp_path))
    get_settings.cache_clear()
    return tmp_path


def write_profile(folder: Path, engine: str, **fields: Any) -> str:
    (folder / "some.yaml").write_text(yaml.safe_dump({"name": "some", "engine": engine, **fields}))
    return "some"


def test_preset_engine_options_are_reported(monkeypatch: pytest.MonkeyPatch, profiles: Path) -> None:
    fake_nvml(monkeypatch, [FakeGpu(), FakeGpu(uuid="GPU-1")])
    name = write_profile(profiles, "vllm")
    findings = check_gpus([(name, "0+1")], 1)
    assert [finding.what for finding in findings] == ["driver", "gpu0", "gpu1", "slot gpu0+1"]
    assert "some: 79.0 GiB free of 80.0 on each of 2 GPUs: tensor_parallel_size=2" in findings[-1].found
    write_profile(profiles, "vllm", engine_options={"tensor_parallel_size": 2})
    assert [finding.what for finding in check_gpus([(name, "all")], 1)] == ["driver", "gpu0", "gpu1", "slot gpu0+1"]
    write_profile(profiles, "hf")
    assert levels_of(check_gpus([(name, "0+1")], 1))["slots"] == "problem"


def test_model_is_checked_from_profile_to_engine(profiles: Path) -> None:
    name = write_profile(profiles, "echo")
    assert levels_of(check_model(name)) == {"profile": "ok", "engine": "ok"}
    write_profile(profiles, "echo", engine_options={"delay": 3})
    assert "unknown field" in check_model(name)[-1].found
    write_profile(profiles, "no_such_package.engine:Engine")
    assert "cannot import 'no_such_package.engine'" in check_model(name)[-1].found
    write_profile(profiles, "tests.support.engines.faulty_engines:ParentEngine", weights="./nothing")
    findings = {finding.what: finding for finding in check_model(name)}
    assert "nothing is not a folder" in findings["weights"].found
    assert "KeyError: 'notes'" in findings["engine"].found
    assert levels_of(check_model("no-such-model")) == {"profile": "problem"}


def test_weights_below_unreadable_folder_are_a_problem(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_profile(profiles, "tests.support.engines.faulty_engines:ParentEngine", weights="./closed/weights")
    close_folder(monkeypatch, profiles / "closed")
    findings = {finding.what: finding for finding in check_model(name)}
    assert findings["weights"].level == "problem"
    assert "some.yaml: weights: " in findings["weights"].found
    assert "closed/weights cannot be read: Permission denied" in findings["weights"].found


def test_endpoint_key_is_checked_but_not_shown(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_profile(profiles, "openai", engine_options={"api_key_env": "GATEWAY_KEY", "base_url": "http://node7:8000/v1"})
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    findings = {finding.what: finding for finding in check_model(name)}
    assert findings["key"].level == "problem"
    assert "GATEWAY_KEY is not set" in findings["key"].found
    monkeypatch.setenv("GATEWAY_KEY", "a-secret-of-some-length")
    findings = {finding.what: finding for finding in check_model(name)}
    assert (findings["key"].level, findings["engine"].level) == ("ok", "ok")
    assert "GATEWAY_KEY is set, for http://node7:8000/v1" in findings["key"].found
    assert "a-secret" not in to_json(list(findings.values()))


@pytest.mark.parametrize(
    ("options", "generation", "count"),
    [
        ({"max_model_len": 4096}, {"max_tokens": 4096}, 1),
        ({"max_model_len": 4096}, {"max_tokens": 8192}, 1),
        ({"max_model_len": 4096}, {"max_tokens": 4095}, 0),
        ({"max_model_len": "auto"}, {"max_tokens": 4096}, 0),
        ({"max_model_len": 4096}, {}, 0),
        ({}, {"max_tokens": 4096}, 0),
    ],
)
def test_max_tokens_over_context_is_reported(options: dict[str, Any], generation: dict[str, Any], count: int) -> None:
    profile = make_profile("vllm", options).model_copy(update={"generation": generation})
    found = check_context(profile)
    assert [finding.level for finding in found] == ["warning"] * count
    assert all("is not less than engine_options.max_model_len 4096" in finding.found for finding in found)
