"""The watchdog: ends this process when native code keeps the interpreter's lock, so that no thread of ours runs any more."""

import faulthandler
import threading


class Watchdog:
    """Proves every now and then that Python threads run; once none has for ``limit_s``, the process ends with exit code 1.

    ``faulthandler``'s own thread needs no lock of the interpreter's, and leaves the tracebacks of all threads in the log.
    Apart from the heartbeat, because a beat may wait for Redis for longer than a stall.
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
