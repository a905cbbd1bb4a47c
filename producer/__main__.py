"""The program ``producer``, also as ``python -m producer``."""

from common.interrupts import handle_interrupts

handle_interrupts()  # before anything else is imported


def main() -> None:
    from common.commands import run_program

    run_program("producer", "producer.cli")


if __name__ == "__main__":
    main()
