"""The files of ``deploy/``, ``docker-compose.yml`` and ``.env.example`` agree with the code and are hardened."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dotenv import dotenv_values

from common.exit_codes import INTERRUPTED, USER_MUST_ACT
from common.settings import Settings
from common.spec.files import find_profile
from tests.support.deploy.files import (
    COMPOSE,
    SBATCH,
    SECRETS,
    Submission,
    list_submissions,
    list_variables,
    parse_start,
    read_compose,
    read_unit,
    run_compose_config,
    verify_units,
)
from tests.support.fleet import ROOT
from tests.support.hardware.fake_gpus import FakeGpu, fake_nvml
from workers.supervisor.launcher import _KILL_AFTER_S
from workers.supervisor.placement import assign_slots, pair_models
from workers.supervisor.signals import DRAINING

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))
UNIT = DEPLOY / "systemd" / "vlm-worker@.service"
FLOWER_UNIT = DEPLOY / "flower" / "vlm-fleet-flower.service"
SETTINGS = {f"FLEET_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROFILES = ("cpu", "gpu", "monitor", "producer")
SUBMISSIONS = list_submissions(SBATCH, ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_compose(**SECRETS)["services"]
    return found


def read_env_example() -> dict[str, str | None]:
    """Return every variable of the file, including variables in comments."""
    text = re.sub(r"^#(?=\w+=)", "", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    return dotenv_values(stream=StringIO(text))


def read_pins(path: Path) -> dict[str, str]:
    lines = [line.partition("==") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, _, version in lines}


def read_instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each on one line."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines()) if name.isupper()]


def to_seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


# docker-compose.yml


def test_compose_file_follows_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests" / "support" / "deploy" / "compose_spec" / "compose-spec.json").read_text())
    errors = jsonschema.Draft7Validator(schema).iter_errors(read_compose(**SECRETS))
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


@pytest.mark.parametrize("profiles", [(), *((profile,) for profile in PROFILES), PROFILES], ids=" ".join)
def test_docker_compose_config_accepts_the_file(profiles: tuple[str, ...]) -> None:
    assert run_compose_config(*profiles, **SECRETS) == ""


@pytest.mark.parametrize("profiles", [(), *((profile,) for profile in PROFILES), PROFILES], ids=" ".join)
def test_profiles_include_service_dependencies(services: dict[str, dict[str, Any]], profiles: tuple[str, ...]) -> None:
    running = {name for name, one in services.items() if not one.get("profiles") or {*one["profiles"]} & {*profiles}}
    assert running >= {"redis"}
    assert {needed for name in running for needed in services[name].get("depends_on", ())} <= running
    assert {profile for one in services.values() for profile in one.get("profiles", ())} == {*PROFILES}


@pytest.mark.parametrize("require_tool", [run_compose_config, lambda: verify_units([UNIT])], ids=["docker", "systemd"])
def test_missing_tool_skips_with_a_reason(require_tool: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception, match="is not installed"):
        require_tool()


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_without_a_secret_is_rejected(missing: str) -> None:
    with pytest.raises(KeyError, match=f"{missing}: set it in .env"):
        read_compose(**{**SECRETS, missing: ""})


def test_secrets_have_no_defaults() -> None:
    secret = re.compile(r"PASSWORD|AUTH|KEY|TOKEN|SECRET")
    assert {variable.kind for variable in list_variables() if secret.search(variable.name)} == {"?"}
    for service in read_compose(**SECRETS)["services"].values():
        given = {name: value for name, value in service["environment"].items() if secret.search(name)}
        assert set(given.values()) <= {None, *SECRETS.values()}
    example = read_env_example()
    assert not any(example[name] for name in example if secret.search(name))


def test_containers_receive_exactly_the_settings(services: dict[str, dict[str, Any]]) -> None:
    for name in ("producer", "flower", "worker-gpu", "worker-cpu"):
        assert {key for key in services[name]["environment"] if key.startswith("FLEET_")} == set(SETTINGS), name


def test_env_example_lists_exactly_the_variables() -> None:
    example = read_env_example()
    passed = {name for service in read_compose(**SECRETS)["services"].values() for name in service["environment"]}
    referenced = {variable.name for variable in list_variables()}
    assert referenced <= set(example) | {"PIP_EXTRA_INDEX_URL"}
    assert set(example) <= referenced | passed | {"COMPOSE_PROFILES"}


def test_ports_are_published_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"redis": ["127.0.0.1:6379:6379"], "flower": ["127.0.0.1:5555:5555"]}


def test_containers_are_unprivileged_and_read_only(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert not {"privileged", "cap_add", "ipc", "pid", "network_mode"} & set(service), name
        assert "docker.sock" not in str(service.get("volumes")), name
    assert services["redis"]["user"] == "redis"


def test_worker_services_start_and_have_time_to_drain(services: dict[str, dict[str, Any]]) -> None:
    for name, gpus in (("worker-gpu", "all"), ("worker-cpu", "none")):
        given = parse_start(services[name]["command"]).params
        assert given["gpus"] == (gpus,)
        assert [find_profile(model).is_file() for model in given["models"]] == [True]
        grace_s = float(services[name]["environment"]["FLEET_DRAIN_GRACE_S"])
        assert grace_s == SETTINGS["FLEET_DRAIN_GRACE_S"]
        assert to_seconds(services[name]["stop_grace_period"]) > grace_s + _KILL_AFTER_S
        assert services[name]["init"] is True
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert "deploy" not in services["worker-cpu"]


# Dockerfiles


def test_images_have_fixed_tags_and_short_names(services: dict[str, dict[str, Any]]) -> None:
    named = [rest for path in DOCKERFILES for name, rest in read_instructions(path) if name == "FROM"]
    named += [service["image"] for service in services.values()]
    for image in named:
        name, _, tag = image.partition(":")
        assert re.fullmatch(r"[a-z-]+", name), f"{image}: expected a short name without a registry host"
        assert re.search(r"\d", tag), f"{image}: expected a fixed tag"
    built = {service["image"].partition(":")[2] for service in services.values() if "build" in service}
    assert built == {PROJECT["version"]}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_pins_versions_and_drops_root(path: Path) -> None:
    instructions = read_instructions(path)
    assert [rest for name, rest in instructions if name == "USER"] == ["fleet"]
    installs = [rest for name, rest in instructions if name == "RUN" and "pip install" in rest]
    assert len(installs) == 1
    assert re.search(r"--mount=type=cache,target=/root/.cache/pip .*pip install .*--constraint", installs[0])
    entry = next(json.loads(rest) for name, rest in instructions if name == "ENTRYPOINT")
    assert entry[0] in PROJECT["scripts"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_build_context_contains_only_copied_files(path: Path) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {source for name, rest in read_instructions(path) if name == "COPY" for source in rest.split()[:-1]}
    assert copied <= allowed
    assert all((ROOT / source).exists() for source in allowed)


def test_compose_build_arguments_are_known(services: dict[str, dict[str, Any]]) -> None:
    builds = [service["build"] for service in services.values() if "build" in service]
    for build in builds:
        instructions = read_instructions(ROOT / build["dockerfile"])
        known = {rest.partition("=")[0] for name, rest in instructions if name == "ARG"}
        assert set(build["args"]) <= known
    workers = [build["args"] for build in builds if "EXTRAS" in build["args"]]
    assert {extra for given in workers for extra in given["EXTRAS"].split(",")} <= set(PROJECT["optional-dependencies"])
    assert {given["CONSTRAINTS"] for given in workers} == {"constraints.txt", "constraints-gpu.txt"}


def test_gpu_constraints_match_ci_constraints() -> None:
    ours = {re.split(r"[<>=;\[ ]", entry)[0] for entry in PROJECT["dependencies"]}
    here, gpu = read_pins(ROOT / "constraints.txt"), read_pins(DEPLOY / "constraints-gpu.txt")
    assert {name: gpu.get(name) for name in ours & set(here) if gpu.get(name) != here[name]}.keys() == {"numpy"}


# systemd and SLURM


def test_systemd_unit_starts_and_has_time_to_drain() -> None:
    unit = read_unit(UNIT)
    program, *arguments = unit["ExecStart"][0].split()
    assert program.endswith("/bin/workers")
    given = parse_start([word.replace("%i", "tiny").replace("${WORKER_GPUS}", "all") for word in arguments]).params
    assert (given["models"], given["gpus"]) == (("tiny",), ("all",))
    environment = dict(pair.split("=") for line in unit["Environment"] for pair in line.split())
    assert environment["WORKER_GPUS"] == "all"
    assert {name for name in environment if name.startswith("FLEET_")} <= set(SETTINGS)
    assert float(unit["TimeoutStopSec"][0]) > float(environment["FLEET_DRAIN_GRACE_S"]) + _KILL_AFTER_S
    assert unit["KillSignal"][0] in {number.name for number in DRAINING}
    assert (unit["KillMode"], unit["Restart"]) == (["mixed"], ["on-failure"])
    assert unit["RestartPreventExitStatus"] == [str(USER_MUST_ACT)]
    assert unit["SuccessExitStatus"] == [str(INTERRUPTED)]
    assert unit["OOMPolicy"] == ["continue"], "an out-of-memory kill of one worker must not stop the other workers"


def test_systemd_unit_is_hardened_within_cuda_limits() -> None:
    unit = read_unit(UNIT)
    assert (unit["NoNewPrivileges"], unit["ProtectSystem"], unit["ProtectHome"]) == (["yes"], ["strict"], ["yes"])
    assert unit["User"] != ["root"]
    assert not {"PrivateDevices", "DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute"} & set(unit)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in (UNIT, FLOWER_UNIT):
        text = re.sub(r"(?<=^ExecStart=)\S+", shutil.which("true") or "/bin/true", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name.replace("@", "@tiny")).write_text(text)
    assert verify_units(sorted(tmp_path.iterdir())) == ""


def test_flower_unit_has_no_privileges_or_secrets() -> None:
    unit = read_unit(FLOWER_UNIT)
    program, *arguments = unit["ExecStart"][0].split()
    assert program.endswith("/bin/celery")
    assert arguments == ["-A", "workers.app", "flower"]
    assert (unit["NoNewPrivileges"], unit["ProtectSystem"], unit["DynamicUser"]) == (["yes"], ["strict"], ["yes"])
    assert "Environment" not in unit, "the password belongs in a file that only root can read"
    assert unit["EnvironmentFile"] == ["/etc/vlm-fleet/flower.env"]


def test_slurm_signal_leaves_time_to_drain() -> None:
    text = SBATCH.read_text()
    signalled = re.search(r"^#SBATCH --signal=B:(\w+)@(\d+)$", text, re.MULTILINE)
    grace = re.search(r"FLEET_DRAIN_GRACE_S:-(\d+)", text)
    assert signalled
    assert grace
    assert f"SIG{signalled[1]}" in {number.name for number in DRAINING}
    assert float(signalled[2]) > float(grace[1]) + _KILL_AFTER_S
    given = re.findall(r"^#SBATCH (--\S+)", text, re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--output=vlm-worker-%A_%a.log"} <= set(given)
    waits = re.search(r"^trap 'sleep (\d+); drain .*' TERM", text, re.MULTILINE)
    assert waits
    assert float(waits[1]) + float(grace[1]) + _KILL_AFTER_S < 30, "SLURM kills 30 s (KillWait) after SIGTERM"
    table = (DEPLOY / "README.md").read_text()
    assert re.findall(r"^\| SLURM, .* \| (\d+) s \|$", table, re.MULTILINE) == [grace[1], grace[1]]


@pytest.mark.parametrize("submission", SUBMISSIONS, ids=str)
def test_documented_submissions_use_their_requested_gpus(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [FakeGpu(uuid=f"GPU-{number}") for number in range(submission.gpus)])
    model, *options = submission.arguments
    given = parse_start(["start", "--model", model, *(options or ["--gpus", "all"])]).params
    slots = [one.slot for one in assign_slots(pair_models(given["models"], given["gpus"]), replicas=given["replicas"])]
    used = [device for slot in slots for device in slot.devices.split(",") if device]
    assert used == [str(number) for number in range(submission.gpus)], "each requested GPU is used exactly once"


def test_documentation_submits_single_and_multi_gpu_models() -> None:
    assert {one.arguments[0] for one in SUBMISSIONS} >= {"qwen2.5-vl-32b", "qwen2.5-vl-7b", "tiny"}


def test_deploy_files_do_not_contain_registry_hosts() -> None:
    for path in [COMPOSE, ROOT / ".env.example", *DOCKERFILES, SBATCH, UNIT]:
        assert not re.search(r"https?://|\b(docker\.io|ghcr\.io|quay\.io|nvcr\.io)\b", path.read_text()), path
