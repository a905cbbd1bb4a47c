"""One model, as ``workers check`` sees it: its profile, its weights or key, and whether its engine can be imported here."""

import subprocess
import sys
import time

from common.errors import ConfigError
from common.redaction import mask_text
from common.spec.files import check, find_profile, find_weights, read_profile
from common.spec.models import ModelProfile
from workers.doctor.engine_probe import REFUSED
from workers.doctor.finding import Finding, report_fault
from workers.doctor.weights import check_weights
from workers.engines.openai.options import OpenAIOptions, find_base_url, read_key
from workers.supervisor.restart_policy import name_code

_IMPORT_S = 30.0


def check_model(named: str) -> list[Finding]:
    """Return what was found of a profile, by name or path: itself, its weights or key, its engine."""
    try:
        path, profile = find_profile(named), read_profile(named)
    except ConfigError as error:
        return [report_fault("profile", error)]
    said = f"{profile.name} of {path}: engine {profile.engine}, adapter {profile.adapter}"
    found = [Finding("profile", "ok", said)]
    if profile.engine == "openai":
        found.append(_check_key(profile))
        if found[-1].level == "problem":
            return found  # the engine would say the same
    elif profile.engine in ("hf", "vllm") or (profile.weights and profile.engine != "echo"):
        try:
            found.append(check_weights(find_weights(profile, profile_path=path), profile.revision))
        except ConfigError as error:
            found.append(report_fault("weights", error))
    return [*found, check_engine(named, profile)]


def check_engine(named: str, profile: ModelProfile) -> Finding:
    """Return whether the engine can be imported, and takes the options of the profile."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "workers.doctor.engine_probe", named]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_S, check=False)  # noqa: S603  # our own
    except subprocess.TimeoutExpired:
        advice = "try again: the first import from a slow disk takes long"
        return Finding("engine", "warning", f"{profile.engine} was not imported within {_IMPORT_S:.0f} s", advice)
    if done.returncode == 0:
        return Finding("engine", "ok", f"{profile.engine} can be imported, in {time.monotonic() - begun:.1f} s")
    if done.returncode == REFUSED and (said := done.stdout.strip()):
        return Finding("engine", "problem", mask_text(said))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode} ({name_code(done.returncode)})"])[-1]
    return Finding(
        "engine",
        "problem",
        mask_text(f"{profile.engine} cannot be imported: {last}"),
        f"see all of it: python -m workers.doctor.engine_probe {named}",
    )


def _check_key(profile: ModelProfile) -> Finding:
    where = f"profile {profile.name}"
    try:
        options = check(OpenAIOptions, profile.engine_options, f"{where}: engine_options")
        key, url = read_key(options, where), mask_text(find_base_url(options))
    except ConfigError as error:
        return report_fault("key", error)
    return Finding("key", "ok", f"{f'{options.api_key_env} is set' if key else 'none is sent'}, for {url}")
