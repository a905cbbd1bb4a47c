"""The program ``producer``, also as ``python -m producer``."""

from common.program.interrupts import handle_interrupts

handle_interrupts()  # must precede the other imports


def main() -> None:
    from common.program.commands import run_program

    run_program("producer", "producer.cli")


if __name__ == "__main__":
    main()
