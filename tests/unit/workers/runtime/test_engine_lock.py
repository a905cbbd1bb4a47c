"""``EngineLock``: chunks share the engine, a quarantined chunk holds it exclusively, and every wait ends."""

import threading
from collections.abc import Callable

import pytest

from common.errors import EngineError
from common.records import Lease, Standing
from tests.support.waiting import wait_until
from workers.runtime.engine_lock import EngineLock


def make_lease(number: int, *, quarantined: bool = False) -> Lease:
    return Lease(
        run_id="r", chunk=number, token=str(number), worker="w", standing=Standing.QUARANTINED if quarantined else Standing.FRESH
    )


class ChunkThread:
    """The thread of a chunk that acquires the lock and holds it until ``end``."""

    def __init__(self, lock: EngineLock, lease: Lease, until: Callable[[], bool] = lambda: False) -> None:
        self.has_lock, self.may_end = threading.Event(), threading.Event()
        self._refused = 0
        self._lock, self._lease, self._until = lock, lease, until
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def wait_for_refusal(self) -> None:
        """Block until the lock refuses this chunk again."""
        before = self._refused
        wait_until(lambda: self._refused > before, "the lock to refuse this chunk", deadline_s=10)
        assert not self.has_lock.is_set()

    def end(self) -> None:
        self.may_end.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _must_begin(self) -> bool:
        self._refused += 1  # the lock calls this only when the chunk must wait
        return self._until()

    def _hold(self) -> None:
        with self._lock.acquire(self._lease, self._must_begin):
            self.has_lock.set()
            self.may_end.wait()  # without timeout: a timeout would release the lock and hide a blocked chunk


def test_quarantined_chunk_waits_then_runs_alone() -> None:
    lock = EngineLock()
    first, second = ChunkThread(lock, make_lease(1)), ChunkThread(lock, make_lease(2))
    assert first.has_lock.wait(10)
    assert second.has_lock.wait(10)
    exclusive = ChunkThread(lock, make_lease(3, quarantined=True))
    wait_until(lambda: lock._quarantined_waiting == 1, "the quarantined chunk to wait")  # noqa: SLF001  # not public
    later = ChunkThread(lock, make_lease(4))
    first.end()
    exclusive.wait_for_refusal()
    later.wait_for_refusal()
    second.end()
    assert exclusive.has_lock.wait(10), (
        "the quarantined chunk must get the lock first, because it has waited longer than the later chunk"
    )
    later.wait_for_refusal()
    assert (lock.is_held_by(make_lease(3)), lock.is_held_by(make_lease(4))) == (True, False)
    exclusive.end()
    assert later.has_lock.wait(10)
    later.end()


def test_quarantined_chunks_run_one_at_a_time() -> None:
    lock = EngineLock()
    one, other = ChunkThread(lock, make_lease(1, quarantined=True)), ChunkThread(lock, make_lease(2, quarantined=True))
    wait_until(lambda: one.has_lock.is_set() or other.has_lock.is_set(), "a quarantined chunk to hold the lock")
    holder, waiting = (one, other) if one.has_lock.is_set() else (other, one)
    waiting.wait_for_refusal()
    holder.end()
    assert waiting.has_lock.wait(10)
    waiting.end()


def test_wait_ends_when_the_worker_drains() -> None:
    lock, drained = EngineLock(), threading.Event()
    holder = ChunkThread(lock, make_lease(1, quarantined=True))
    assert holder.has_lock.wait(10)
    waiting = [ChunkThread(lock, make_lease(number, quarantined=number == 2), drained.is_set) for number in (2, 3)]
    for thread in waiting:
        thread.wait_for_refusal()
    drained.set()
    for thread in waiting:
        assert thread.has_lock.wait(10)
        thread.end()
    holder.end()


def test_chunk_keeps_lock_after_engine_death() -> None:
    lock, lease = EngineLock(), make_lease(1)
    with pytest.raises(EngineError), lock.acquire(lease, lambda: False):
        raise EngineError("exited")
    assert lock.is_held_by(lease)
    with pytest.raises(KeyError), lock.acquire(make_lease(2), lambda: False):
        raise KeyError
    assert not lock.is_held_by(make_lease(2))
