"""Import a profile's engine and give it the profile's options, in a separate process.

    python -m workers.doctor.engine_probe NAME

An engine's package may take gigabytes, crash in native code or end the process; that is to happen here.
"""

import os
import sys

import click

from common.errors import FleetError
from common.spec.files import read_profile
from workers.engines.registry import load_engine

REFUSED = 2


def main(named: str) -> None:
    """End this process with exit code 0, or with ``REFUSED`` and our own words on standard output."""
    code = 0
    try:
        profile = read_profile(named)
        load_engine(profile, profile.weights or profile.name)
    except FleetError as error:
        click.echo(str(error))
        code = REFUSED
    sys.stdout.flush()
    os._exit(code)  # what the package does at its end is of no interest


if __name__ == "__main__":
    main(sys.argv[1])
