"""End this process if native code keeps the interpreter's lock and Python threads cannot run."""

import faulthandler
import threading


class Watchdog:
    """Checks that Python threads run. If they have not run for ``limit_s``, ends the process with exit code 1.

    ``faulthandler``'s thread does not need the interpreter's lock. It writes the tracebacks of all threads to stderr.
    The watchdog is separate from the heartbeat, because one heartbeat may wait for Redis for longer than ``limit_s``.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=2)
        while not self._stopping.wait(self._limit_s / 4):
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=2)
