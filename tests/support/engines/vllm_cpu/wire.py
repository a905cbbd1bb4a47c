"""The transport of Python values between a test and the process with its engines."""

import pickle
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

_LENGTH_BYTES = 8


class Call(NamedTuple):
    """One call of an engine's method. ``load`` creates the engine of that name."""

    engine: str
    method: str
    arguments: tuple[Any, ...] = ()


def write_value(writer: StreamWriter, value: object) -> None:
    content = pickle.dumps(value)
    writer.write(len(content).to_bytes(_LENGTH_BYTES) + content)


async def read_values(reader: StreamReader) -> AsyncIterator[Any]:
    """Yield the values from the other side until it closes the connection."""
    try:
        while True:
            length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
            yield pickle.loads(await reader.readexactly(length))  # noqa: S301  # from a process of the same test
    except (IncompleteReadError, ConnectionError):
        return
