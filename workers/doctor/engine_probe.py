"""Import a profile's engine and pass it the profile's options, in a separate process.

    python -m workers.doctor.engine_probe NAME

The package of an engine may take gigabytes of memory, crash in native code or exit the process. A separate process protects
`workers check` from that.
"""

import os
import sys

import click

from common.errors import FleetError
from common.spec.files import read_profile
from workers.engines.registry import load_engine

REFUSED = 2


def main(name_or_path: str) -> None:
    """Exit this process with code 0, or with ``REFUSED`` and the message of the ``FleetError`` on standard output."""
    code = 0
    try:
        profile = read_profile(name_or_path)
        load_engine(profile, profile.weights or profile.name)
    except FleetError as error:
        click.echo(str(error))
        code = REFUSED
    sys.stdout.flush()
    os._exit(code)  # skip the exit handlers of the engine's package: they may fail or hang


if __name__ == "__main__":
    main(sys.argv[1])
