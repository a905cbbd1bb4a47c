"""The program ``workers``, also as ``python -m workers``."""

from common.interrupts import handle_interrupts

handle_interrupts()  # before anything else is imported


def main() -> None:
    from common.commands import run_program

    run_program("workers", "workers.cli")


if __name__ == "__main__":
    main()
