"""Takeover of other workers' chunks. Each chunk runs on a separate thread and does not wait in the queue or for Celery."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import structlog
from redis.exceptions import RedisError

from common.ledger.ledger import Ledger

log = structlog.get_logger()

# Chunks that are taken over skip admission. ``MOST_TAKEOVERS`` limits the chunks that one worker runs. ``MOST_IN_A_SWEEP`` limits
# the chunks that it takes in one sweep of its janitor, so that other workers get a share of a dead worker's chunks.
MOST_TAKEOVERS = 16
MOST_IN_A_SWEEP = 4


class Takeovers:
    """Runs the chunks that the ledger has offered to this worker. Offers chunks that it does not begin to other workers."""

    def __init__(
        self, ledger: Ledger, run_chunk: Callable[[str, int], str], most: int, is_closed: Callable[[], bool] = lambda: False
    ) -> None:
        self._ledger = ledger
        self._is_closed = is_closed
        self._run_chunk = run_chunk
        self._most = min(MOST_TAKEOVERS, most)
        self._threads = ThreadPoolExecutor(MOST_TAKEOVERS, thread_name_prefix="takeover")
        self._running: dict[Future[None], tuple[str, int]] = {}
        self._closed = False

    @property
    def room(self) -> int:
        """The number of further chunks that may begin in one sweep. It is 0 after ``close``, and while ``is_closed()`` is true."""
        return 0 if self._closed or self._is_closed() else min(MOST_IN_A_SWEEP, self._most - self.running)

    @property
    def running(self) -> int:
        """The number of chunks that run or wait for a thread."""
        return sum(not taken.done() for taken in list(self._running))

    def close(self) -> None:
        """Do not take over further chunks. Safe in a signal handler."""
        self._closed = True

    def begin(self, run_id: str, chunk: int) -> None:
        """Run a chunk on a separate thread."""
        self._running = {taken: named for taken, named in self._running.items() if not taken.done()}
        try:
            self._running[self._threads.submit(self._run, run_id, chunk)] = (run_id, chunk)
        except RuntimeError:  # this worker has begun to stop
            self.decline(run_id, chunk)

    def decline(self, run_id: str, chunk: int) -> None:
        """Offer a chunk to other workers immediately. Otherwise the ledger offers it again only after one lease time."""
        with suppress(RedisError):
            self._ledger.offer_again(run_id, chunk)

    def decline_all(self) -> None:
        """Decline all unfinished chunks. This does not change chunks that have begun."""
        for taken, (run_id, chunk) in list(self._running.items()):
            if not taken.done():
                self.decline(run_id, chunk)

    def stop(self) -> None:
        """Wait for running takeovers to end. Do not begin others."""
        self._threads.shutdown()

    def _run(self, run_id: str, chunk: int) -> None:
        log.info("chunk.taken_over", run_id=run_id, chunk=chunk)
        result = self._run_chunk(run_id, chunk)
        log.info("takeover.finished", run_id=run_id, chunk=chunk, result=result)
