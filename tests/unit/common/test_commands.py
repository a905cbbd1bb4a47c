"""How a command ends: the exit codes of the contract, and words instead of tracebacks."""

from collections.abc import Callable

import click
import pytest

from common.commands import run_command
from common.errors import ConfigError, FleetError, IntegrityError, ServiceUnreachable, TransientError


def end(body: Callable[[], object]) -> int:
    """Return the exit code of a command with this body."""

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
def test_what_a_command_returns_is_its_exit_code(returned: object, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(lambda: returned) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("spec.yaml: model: missing"), 2),
        (ServiceUnreachable("Redis does not answer"), 3),
        (TransientError("try again"), 1),
        (IntegrityError("part 3 is damaged"), 1),
        (FleetError("the worker could not start"), 1),
    ],
)
def test_an_error_ends_with_its_message_and_the_code_of_who_must_act(
    error: FleetError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(fail(error)) == code
    assert capsys.readouterr() == ("", f"producer: {error}\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.exceptions.Abort()])
def test_an_interruption_says_that_nothing_is_lost(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(fail(error)) == 130
    assert capsys.readouterr().err.strip() == "interrupted; nothing is lost, run the same command again"


def test_wrong_usage_shows_clicks_advice(capsys: pytest.CaptureFixture[str]) -> None:
    @click.group()
    def group() -> None: ...

    group.command("status")(lambda: None)
    with pytest.raises(SystemExit) as caught:
        run_command("producer", lambda **given: group.main(["stats"], **given))
    assert caught.value.code == 2
    assert "Did you mean 'status'?" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        end(fail(ZeroDivisionError()))
