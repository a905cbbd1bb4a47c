"""The program ``producer``, also as ``python -m producer``."""

from typing import NoReturn

from common.commands import run_program


def main() -> NoReturn:
    run_program("producer", "producer.cli")


if __name__ == "__main__":
    main()
