"""What stands in the files of ``deploy/`` and in ``docker-compose.yml``, read without Docker and systemd."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tests.support.fleet import ROOT
from workers.cli import cli

COMPOSE = ROOT / "docker-compose.yml"
SBATCH = ROOT / "deploy" / "slurm" / "worker.sbatch"
SECRETS = {"REDIS_PASSWORD": "0123456789abcdef", "FLOWER_BASIC_AUTH": "ann:correct-horse"}

_INNERMOST = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^${}]*))?\}")

_SUBMISSION = re.compile(r"\bsbatch (?P<options>[^`\n]*?)deploy/slurm/worker\.sbatch (?P<arguments>[a-z][^`#\n]*)")
_GPUS_PER_NODE = re.compile(r"--gpus-per-node=(\d+)")


@dataclass(frozen=True)
class Submission:
    """One ``sbatch … worker.sbatch MODEL …`` that a document tells to type: GPUs of each element, and what follows the script."""

    gpus: int
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """One ``${NAME:-default}`` or ``${NAME:?words}`` of the compose file; ``kind`` is ``-``, ``?`` or empty."""

    name: str
    kind: str
    text: str


def read_compose(**variables: str) -> dict[str, Any]:
    """Return the compose file as Compose sees it, for these variables and no others.  Raises ``KeyError`` as Compose refuses."""
    text = COMPOSE.read_text()
    while found := _INNERMOST.search(text):
        text = text[: found.start()] + _resolve(Variable(*found.groups("")), variables) + text[found.end() :]
    compose: dict[str, Any] = yaml.safe_load(text)
    return compose


def list_variables() -> list[Variable]:
    """Return every variable of the compose file; of one inside another's default, both."""
    found, text = [], COMPOSE.read_text()
    while match := _INNERMOST.search(text):
        found.append(Variable(*match.groups("")))
        text = text[: match.start()] + text[match.end() :]
    return found


def unescape(text: str) -> str:
    """Return a piece of the compose file as the container gets it."""
    return text.replace("$$", "$")


def run_compose_config(*profiles: str, **variables: str) -> str:
    """Return what ``docker compose config`` complains of, which is nothing if it passes.

    Skips the test that asks where there is no such command.
    """
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed, so it did not check docker-compose.yml")
    options = [option for profile in profiles for option in ("--profile", profile)]
    command = [docker, "compose", "--file", str(COMPOSE), "--env-file", "/dev/null", *options, "config", "--quiet"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr.strip() or (f"exit code {done.returncode}" if done.returncode else "")


def verify_units(units: Sequence[Path]) -> str:
    """Return what ``systemd-analyze verify`` complains of in these units of one folder, which is nothing if it passes.

    Skips the test that asks where there is no such command.
    """
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed, so it did not check the units")
    command = [analyze, "verify", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    complaints = [
        line for line in done.stderr.splitlines() if line.startswith(str(units[0].parent))
    ]  # other lines are about the machine's own units
    return "\n".join(complaints) or (done.stderr if done.returncode else "")


def list_submissions(*paths: Path) -> list[Submission]:
    """Return every ``sbatch`` of our script that these documents tell to type; by itself it asks for what the script says."""
    (by_default,) = re.findall(r"^#SBATCH --gpus-per-node=(\d+)$", SBATCH.read_text(), re.MULTILINE)
    found = [match for path in paths for match in _SUBMISSION.finditer(path.read_text())]
    asked = [_GPUS_PER_NODE.search(match["options"]) for match in found]
    return [
        Submission(int(gpus[1] if gpus else by_default), tuple(shlex.split(match["arguments"])))
        for match, gpus in zip(found, asked, strict=True)
    ]


def read_unit(path: Path) -> dict[str, list[str]]:
    """Return a systemd unit's settings; some stand there several times."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            settings.setdefault(name, []).append(value)
    return settings


def parse_start(arguments: Sequence[str]) -> click.Context:
    """Parse what follows ``workers`` as the command itself does, and run nothing.  Raises ``click.ClickException``."""
    name, command, rest = cli.resolve_command(cli.make_context("workers", [*arguments]), [*arguments])
    assert command is not None
    return command.make_context(name, rest)


def _resolve(variable: Variable, variables: Mapping[str, str]) -> str:
    value = variables.get(variable.name, "")
    if value or not variable.kind:
        return value
    if variable.kind == "?":
        raise KeyError(f"{variable.name}: {variable.text}")
    return variable.text
