"""The checks of one model: its profile, its weights or API key, and whether its engine can be imported on this machine."""

import subprocess
import sys
import time

from common.errors import ConfigError
from common.spec.files import check, find_profile, find_weights, read_profile
from common.spec.models import ModelProfile
from workers.doctor.engine_probe import REFUSED
from workers.doctor.finding import Finding, report_fault
from workers.doctor.weights import check_weights
from workers.engines.openai.options import OpenAIOptions, find_base_url, read_key
from workers.supervisor.restart_policy import name_code

_IMPORT_S = 30.0


def check_model(name_or_path: str) -> list[Finding]:
    """Check a profile, given by name or path: the file itself, its weights or API key, and its engine."""
    try:
        path, profile = find_profile(name_or_path), read_profile(name_or_path)
    except ConfigError as error:
        return [report_fault("profile", error)]
    summary = f"{profile.name} of {path}: engine {profile.engine}, adapter {profile.adapter}"
    found = [Finding("profile", "ok", summary)]
    if profile.engine == "openai":
        found.append(_check_key(profile))
        if found[-1].level == "problem":
            return found  # the engine would report the same problem
    elif profile.engine in ("hf", "vllm") or (profile.weights and profile.engine != "echo"):
        try:
            found.append(check_weights(find_weights(profile, profile_path=path), profile.revision))
        except ConfigError as error:
            found.append(report_fault("weights", error))
    return [*found, *check_context(profile), check_engine(name_or_path, profile)]


def check_context(profile: ModelProfile) -> list[Finding]:
    """Check that the profile's context has room for both a prompt and an answer of ``max_tokens``."""
    context_tokens, max_tokens = profile.engine_options.get("max_model_len"), profile.generation.get("max_tokens")
    if not isinstance(context_tokens, int) or not isinstance(max_tokens, int) or context_tokens <= 0 or max_tokens < context_tokens:
        return []
    found = f"generation.max_tokens {max_tokens} is not less than engine_options.max_model_len {context_tokens}"
    return [Finding("context", "warning", f"{found}: each prompt shortens its answer", "lower max_tokens or raise max_model_len")]


def check_engine(name_or_path: str, profile: ModelProfile) -> Finding:
    """Check that the engine can be imported and accepts the options of the profile. Use a separate process."""
    started_at = time.monotonic()
    command = [sys.executable, "-m", "workers.doctor.engine_probe", name_or_path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        advice = "try again: the first import from a slow disk takes longer"
        return Finding("engine", "warning", f"{profile.engine} was not imported within {_IMPORT_S:.0f} s", advice)
    if done.returncode == 0:
        return Finding("engine", "ok", f"{profile.engine} was imported in {time.monotonic() - started_at:.1f} s")
    if done.returncode == REFUSED and (message := done.stdout.strip()):
        return Finding("engine", "problem", message)
    last_line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode} ({name_code(done.returncode)})"])[-1]
    return Finding(
        "engine",
        "problem",
        f"{profile.engine} cannot be imported: {last_line}",
        f"see the full output: python -m workers.doctor.engine_probe {name_or_path}",
    )


def _check_key(profile: ModelProfile) -> Finding:
    where = f"profile {profile.name}"
    try:
        options = check(OpenAIOptions, profile.engine_options, f"{where}: engine_options")
        key, url = read_key(options, where), find_base_url(options)
    except ConfigError as error:
        return report_fault("key", error)
    return Finding("key", "ok", f"{f'{options.api_key_env} is set' if key else 'no key is sent'}, for {url}")
