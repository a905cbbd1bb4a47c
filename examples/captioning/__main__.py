"""Prepare, run and export the captions of a project: ``python -m examples.captioning``."""

from common.program.interrupts import handle_interrupts

handle_interrupts()  # before anything else is imported


def main() -> None:
    from common.program.commands import run_program

    run_program("captioning", "examples.captioning.caption")


if __name__ == "__main__":
    main()
