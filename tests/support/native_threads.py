"""A native thread that calls into Python while the process ends, as the pools of Arrow and object storage can.

The teardown of the interpreter aborts such a process with SIGABRT.
"""

import io
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq

_READ_S = 0.3
_FOREIGN = "Dummy-"  # Python's name for a thread that it did not start


class _SlowFile(io.BytesIO):
    """A file that sets ``is_read`` when a thread of Arrow reads it, and makes that thread wait inside Python."""

    def __init__(self, content: bytes, is_read: threading.Event) -> None:
        super().__init__(content)
        self._is_read = is_read

    def read(self, size: int | None = -1) -> bytes:
        if threading.current_thread().name.startswith(_FOREIGN):
            self._is_read.set()
            time.sleep(_READ_S)
        return super().read(size)


def start_native_reading() -> None:
    """Return while a thread of Arrow reads a Python file. The thread continues to read for some time."""
    written = io.BytesIO()
    pq.write_table(pa.table({"number": list(range(100_000))}), written, row_group_size=2000)

    is_read = threading.Event()

    def read() -> None:
        while True:
            pq.read_table(_SlowFile(written.getvalue(), is_read))

    threading.Thread(target=read, daemon=True).start()
    assert is_read.wait(60)
