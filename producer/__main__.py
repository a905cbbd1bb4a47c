"""The program ``producer``, also as ``python -m producer``."""

from common.program.interrupts import handle_interrupts

handle_interrupts()  # before anything else is imported


def main() -> None:
    from common.program.commands import run_program

    run_program("producer", "producer.cli")


if __name__ == "__main__":
    main()
