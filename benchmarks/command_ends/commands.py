"""The commands that are ended: every subcommand of ``producer`` and ``workers``."""

from collections.abc import Sequence
from typing import NamedTuple

from common.exit_codes import INTERRUPTED, NOT_ALL_OK, USER_MUST_ACT


class Command(NamedTuple):
    """A command line. Words in capitals are placeholders, for example for a run id.

    - ``code`` is the exit code without a signal. If ``ready`` is set, it is the exit code after a signal to the ready command.
    - ``ready`` is the text that the command prints once it is ready, if the command runs until a signal.
    - ``conflict`` is the exit code if a concurrent command makes this command fail, or ``None`` if that cannot happen.
    """

    line: str
    code: int = 0
    ready: str = ""
    conflict: int | None = None

    @property
    def starts_processes(self) -> bool:
        return self.line.startswith(("producer demo", "workers start"))

    @property
    def codes(self) -> frozenset[int]:
        """The exit codes without a signal."""
        return frozenset({self.code} if self.conflict is None else {self.code, self.conflict})

    @property
    def codes_after_signal(self) -> frozenset[int]:
        """The exit codes after one signal. A launcher that drains exits with 0."""
        return self.codes | ({INTERRUPTED, 0} if self.line.startswith("workers start") else {INTERRUPTED})


# DONE is a run that is done. OPEN is a run of the profile "slow", which never ends. No worker serves the run IDLE. ROWS is the
# dataset of SPEC.
COMMANDS: tuple[Command, ...] = (
    Command("producer --help"),
    Command("workers --help"),
    Command("producer inspect ROWS"),
    Command("producer enqueue SPEC --dry-run"),
    Command("producer enqueue SPEC --set shuffle.seed=NUMBER"),
    Command("producer status DONE"),
    Command("producer status OPEN --json"),
    Command("producer watch DONE"),
    Command("producer watch OPEN", code=130, ready="waiting for a"),
    Command("producer collect DONE --out OUT"),
    Command("producer collect OPEN --out OUT --json", code=NOT_ALL_OK),
    Command("producer evaluate DONE"),
    Command("producer export DONE --format captions --names id --out OUT"),
    Command("producer cancel IDLE"),
    Command("producer resume IDLE"),
    Command("producer resume DONE --rebuild", conflict=NOT_ALL_OK),  # a concurrent rebuild deletes the run
    Command("producer demo --dir OUT"),
    Command("workers check --model quick --gpus none"),
    Command("workers check --json --gpus none"),
    Command("workers start --model slow --gpus none", ready="worker.ready"),
    Command("workers start --model broken --gpus none", code=USER_MUST_ACT),
)


def choose_commands(names: Sequence[str]) -> list[Command]:
    """Return the commands whose line contains one of ``names``. Raises ``ValueError`` if no command contains a name."""
    for name in names:
        if not any(name in command.line for command in COMMANDS):
            raise ValueError(f"no command contains {name!r}; expected a part of: {', '.join(one.line for one in COMMANDS)}")
    return [command for command in COMMANDS if any(name in command.line for name in names)]
