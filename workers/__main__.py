"""The program ``workers``, also as ``python -m workers``."""

from common.program.interrupts import handle_interrupts

handle_interrupts()  # must precede the other imports


def main() -> None:
    from common.program.commands import run_program

    run_program("workers", "workers.cli")


if __name__ == "__main__":
    main()
