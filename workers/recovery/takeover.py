"""Chunks of others that this worker takes over, each on a thread of its own: they wait neither in the queue nor for Celery's."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from redis.exceptions import RedisError

from common.ledger.ledger import Ledger

# They do not wait for room, and other workers are to have some of a dead one's chunks, too.
MOST_TAKEOVERS = 4


class Takeovers:
    """Runs what the ledger has named to this worker.  What it does not begin is offered to others at once."""

    def __init__(self, ledger: Ledger, run_chunk: Callable[[str, int], str], most: int) -> None:
        self._ledger = ledger
        self._run_chunk = run_chunk
        self._most = min(MOST_TAKEOVERS, most)
        self._threads = ThreadPoolExecutor(MOST_TAKEOVERS, thread_name_prefix="takeover")
        self._running: dict[Future[str], tuple[str, int]] = {}

    @property
    def room(self) -> int:
        """How many more may begin now."""
        return self._most - sum(not taken.done() for taken in self._running)

    def begin(self, run_id: str, chunk: int) -> None:
        """Run a chunk on a thread of its own."""
        self._running = {taken: named for taken, named in self._running.items() if not taken.done()}
        try:
            self._running[self._threads.submit(self._run_chunk, run_id, chunk)] = (run_id, chunk)
        except RuntimeError:  # this worker has begun to end
            self.decline(run_id, chunk)

    def decline(self, run_id: str, chunk: int) -> None:
        """Let another worker have a chunk that this one will not begin; else it would be offered again only after a lease."""
        with suppress(RedisError):
            self._ledger.offer_again(run_id, chunk)

    def decline_all(self) -> None:
        """Decline whatever has not begun; for those that have, it means nothing."""
        for taken, (run_id, chunk) in list(self._running.items()):
            if not taken.done():
                self.decline(run_id, chunk)

    def stop(self) -> None:
        """Wait for what runs."""
        self._threads.shutdown()
