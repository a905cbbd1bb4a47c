"""The program ``workers``, also as ``python -m workers``."""

from typing import NoReturn

from common.commands import run_program


def main() -> NoReturn:
    run_program("workers", "workers.cli")


if __name__ == "__main__":
    main()
