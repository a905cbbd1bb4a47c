"""One renderer writes the records of structlog and of the standard library's logging to standard error."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from celery.bin.base import LogLevel

from common.errors import ConfigError
from common.logging import LEVELS, configure_log


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail() -> None:
    secret = "s3cr3t"  # noqa: S105  # must not appear in the log
    raise ValueError(f"wrong length: {len(secret)}")


def test_json_log_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("INFO", as_json=True)
    structlog.get_logger("ours").info("chunk done", run_id="tiny-1", chunk=3, odd={1, 2}.__class__, text="a\nb 中")
    logging.getLogger("celery").warning("%s is unreachable", "redis")
    captured = capsys.readouterr()
    first, second = map(json.loads, captured.err.splitlines())
    assert captured.out == ""
    assert (first["event"], first["run_id"], first["chunk"], first["text"]) == ("chunk done", "tiny-1", 3, "a\nb 中")
    assert (second["event"], second["level"]) == ("redis is unreachable", "warning")
    assert first["timestamp"].endswith("Z")


def test_log_without_terminal_is_plain_key_value(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log()
    structlog.get_logger("ours").info("chunk done", run_id="tiny-1", chunk=3)
    logging.getLogger("celery").warning("redis is unreachable")
    ours, theirs = capsys.readouterr().err.splitlines()
    assert "\x1b" not in ours + theirs
    assert "chunk done" in ours
    assert ours.endswith("chunk=3 run_id=tiny-1")
    assert "redis is unreachable" in theirs


def test_level_is_case_insensitive(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("warning")
    structlog.get_logger("ours").info("quiet")
    logging.getLogger("celery").info("quiet")
    structlog.get_logger("ours").error("loud")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_unknown_level_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="FLEET_LOG_LEVEL: found 'loud'; expected DEBUG, INFO, WARNING, ERROR or CRITICAL"):
        configure_log("loud")


@pytest.mark.parametrize("level", [*LEVELS, "info", "Warning"])
def test_celery_accepts_the_same_levels(level: str) -> None:
    configure_log(level)
    assert LogLevel().convert(level, None, None) == logging.getLogger().level


@pytest.mark.parametrize("level", ["WARN", "NOTSET", "FATAL", "10", ""])
def test_levels_unknown_to_celery_are_rejected(level: str) -> None:
    """Only ``logging`` accepts these levels. A worker that passes one to Celery exits."""
    with pytest.raises(ConfigError, match=f"FLEET_LOG_LEVEL: found '{level}'"):
        configure_log(level)


@pytest.mark.parametrize("as_json", [True, False])
def test_traceback_is_logged_once_without_variable_values(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_log(as_json=as_json)
    for log in (structlog.get_logger("ours"), logging.getLogger("celery")):
        try:
            fail()
        except ValueError:
            log.exception("it failed")
    output = capsys.readouterr().err
    assert output.count("Traceback (most recent call last)") == 2
    assert output.count("ValueError: wrong length: 6") == 2
    assert "s3cr3t" not in output.replace('secret = "s3cr3t"', "")


def test_repeated_configuration_does_not_duplicate_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log()
    configure_log()
    structlog.get_logger("ours").info("once")
    assert capsys.readouterr().err.count("once") == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_masked_in_every_log_call(
    as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = 'quoted "key" of tests'  # noqa: S105  # must not appear in the log
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    configure_log("DEBUG", as_json=as_json)
    structlog.get_logger("ours").info(f"with {secret}", url="redis://:pw1234@host", api_key="pw1234", nested=[{"x": secret}])
    logging.getLogger("kombu").debug("with %s and %r", "redis://:pw1234@host", {"x": secret})
    for log in (structlog.get_logger("ours"), logging.getLogger("celery")):
        try:
            raise ValueError(f"at redis://:pw1234@host with {secret}")
        except ValueError:
            log.exception("it failed")
    structlog.get_logger("ours").info("odd", error=ValueError("redis://:pw1234@host"), stack_info=True)
    output = capsys.readouterr().err
    assert "pw1234" not in output
    assert "of tests" not in output.replace('raise ValueError(f"', "")
    assert output.count("Traceback (most recent call last)") == 2
    if as_json:
        assert json.loads(output.splitlines()[0])["nested"] == [{"x": "***"}]


def test_long_values_of_a_log_event_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log()
    long = "x" * 1_000_000
    structlog.get_logger("ours").info("chunk.done", run_id=long, given=[long], odd={"a": long}, error=ValueError(long))
    logging.getLogger("celery").warning("Task %s", long)
    try:
        raise ValueError(long)
    except ValueError:
        structlog.get_logger("ours").exception("chunk.failed")
    written = capsys.readouterr().err
    assert len(written) < 30_000
    assert "Traceback" in written


@pytest.mark.parametrize("as_json", [False, True])
def test_control_characters_do_not_reach_the_log(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_log(as_json=as_json)
    structlog.get_logger("ours").info("chunk.done", path="/data/\x1b]0;title\x07.png")
    logging.getLogger("celery").warning("Task %s", "\x1b[2J")
    assert "\x1b" not in capsys.readouterr().err
