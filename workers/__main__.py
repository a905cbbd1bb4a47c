"""Entry point of ``python -m workers``."""

from workers.cli import main

main()
