"""Commands exit with the documented codes and print messages instead of tracebacks."""

from collections.abc import Callable

import click
import pytest

from common.errors import ConfigError, FleetError, IntegrityError, ServiceUnreachable, TransientError
from common.program.commands import run_command


def run_body(body: Callable[[], object]) -> int:
    """Run a command that calls ``body`` and return its exit code."""

    @click.command()
    def command() -> object:
        return body()

    with pytest.raises(SystemExit) as caught:
        run_command("producer", lambda **given: command.main([], **given))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def fail(error: BaseException) -> Callable[[], object]:
    def body() -> object:
        raise error

    return body


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), ("text", 0)])
def test_return_value_is_the_exit_code(returned: object, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_body(lambda: returned) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("spec.yaml: model: missing"), 2),
        (ServiceUnreachable("Redis does not answer"), 3),
        (TransientError("try again"), 3),
        (IntegrityError("part 3 is damaged"), 1),
        (FleetError("the worker could not start"), 1),
    ],
)
def test_error_prints_its_message_and_exit_code(error: FleetError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_body(fail(error)) == code
    assert capsys.readouterr() == ("", f"producer: {error}\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.exceptions.Abort()])
def test_interrupt_exits_with_130_and_a_message(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_body(fail(error)) == 130
    assert capsys.readouterr().err.strip() == "interrupted; nothing is lost, run the same command again"


def test_usage_error_shows_the_suggestion_of_click(capsys: pytest.CaptureFixture[str]) -> None:
    @click.group()
    def group() -> None: ...

    group.command("status")(lambda: None)
    with pytest.raises(SystemExit) as caught:
        run_command("producer", lambda **given: group.main(["stats"], **given))
    assert caught.value.code == 2
    assert "Did you mean 'status'?" in capsys.readouterr().err


def test_unexpected_exception_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_body(fail(ZeroDivisionError()))


@pytest.mark.parametrize(
    "error", [click.BadParameter("no file 'a\x1b[2J'"), click.UsageError("\x1b]0;title\x07"), ConfigError("a\x1b[2J: odd")]
)
def test_control_characters_do_not_reach_the_terminal(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_body(fail(error)) == 2
    captured = capsys.readouterr().err
    assert not {"\x1b", "\x07"} & set(captured)
