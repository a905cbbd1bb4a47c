"""The contents of ``deploy/`` and of ``docker-compose.yml``, read without Docker and systemd."""

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
    """One ``sbatch … worker.sbatch MODEL …`` in a document: the GPUs of each element, and the arguments after the script."""

    gpus: int
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """One ``${NAME:-default}`` or ``${NAME:?message}`` of the compose file; ``kind`` is ``-``, ``?`` or empty."""

    name: str
    kind: str
    text: str


def read_compose(**variables: str) -> dict[str, Any]:
    """Return the compose file, resolved with only these variables. Raise ``KeyError`` if Compose would refuse the file."""
    text = COMPOSE.read_text()
    while found := _INNERMOST.search(text):
        text = text[: found.start()] + _resolve(Variable(*found.groups("")), variables) + text[found.end() :]
    compose: dict[str, Any] = yaml.safe_load(text)
    return compose


def list_variables() -> list[Variable]:
    """Return every variable of the compose file, including variables in the default of another variable."""
    found, text = [], COMPOSE.read_text()
    while match := _INNERMOST.search(text):
        found.append(Variable(*match.groups("")))
        text = text[: match.start()] + text[match.end() :]
    return found


def unescape(text: str) -> str:
    """Return a string of the compose file as the container receives it."""
    return text.replace("$$", "$")


def run_compose_config(*profiles: str, **variables: str) -> str:
    """Return the errors of ``docker compose config``, or an empty text if the file is valid.

    Skip the calling test if the command is not installed.
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
    """Return the errors of ``systemd-analyze verify`` in these units of one folder, or an empty text if they are valid.

    Skip the calling test if the command is not installed.
    """
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed, so it did not check the units")
    command = [analyze, "verify", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # Other lines report on units of the machine.
    complaints = [line for line in done.stderr.splitlines() if line.startswith(str(units[0].parent))]
    return "\n".join(complaints) or (done.stderr if done.returncode else "")


def list_submissions(*paths: Path) -> list[Submission]:
    """Return every ``sbatch`` of our script in these documents. The default number of GPUs is in the script."""
    (by_default,) = re.findall(r"^#SBATCH --gpus-per-node=(\d+)$", SBATCH.read_text(), re.MULTILINE)
    found = [match for path in paths for match in _SUBMISSION.finditer(path.read_text())]
    asked = [_GPUS_PER_NODE.search(match["options"]) for match in found]
    return [
        Submission(int(gpus[1] if gpus else by_default), tuple(shlex.split(match["arguments"])))
        for match, gpus in zip(found, asked, strict=True)
    ]


def read_unit(path: Path) -> dict[str, list[str]]:
    """Return a systemd unit's settings; a setting may have several values."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            settings.setdefault(name, []).append(value)
    return settings


def parse_start(arguments: Sequence[str]) -> click.Context:
    """Parse the arguments after ``workers`` as the command does, without running it. Raise ``click.ClickException``."""
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
