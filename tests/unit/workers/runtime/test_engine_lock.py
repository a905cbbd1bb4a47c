"""EngineLock: chunks share the engine, a suspect has it alone, and every wait ends."""

import threading
from collections.abc import Callable

import pytest

from common.errors import EngineError
from common.records import Lease
from tests.support.waiting import wait_until
from workers.runtime.engine_lock import EngineLock


def make_lease(number: int, *, suspect: bool = False) -> Lease:
    return Lease(run_id="r", chunk=number, token=str(number), worker="w", suspect=suspect)


class Asker:
    """A chunk's thread that takes its turn and keeps it until ``end``."""

    def __init__(self, turns: EngineLock, lease: Lease, until: Callable[[], bool] = lambda: False) -> None:
        self.has_turn, self.may_end = threading.Event(), threading.Event()
        self._refused = 0
        self._turns, self._lease, self._until = turns, lease, until
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def wait_for_refusal(self) -> None:
        """Block until the lock has found, from now on, that this chunk must wait."""
        before = self._refused
        wait_until(lambda: self._refused > before, "the lock to refuse this chunk", deadline_s=10)
        assert not self.has_turn.is_set()

    def end(self) -> None:
        self.may_end.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _must_begin(self) -> bool:
        self._refused += 1  # the lock asks this only when it has found that the chunk must wait
        return self._until()

    def _ask(self) -> None:
        with self._turns.acquire(self._lease, self._must_begin):
            self.has_turn.set()
            self.may_end.wait()  # a limit here would free the lock and hide a chunk that is stuck


def test_suspect_waits_for_chunks_and_is_then_alone() -> None:
    turns = EngineLock()
    first, second = Asker(turns, make_lease(1)), Asker(turns, make_lease(2))
    assert first.has_turn.wait(10)
    assert second.has_turn.wait(10)
    suspect = Asker(turns, make_lease(3, suspect=True))
    wait_until(lambda: turns._suspects_waiting == 1, "the suspect to wait")  # noqa: SLF001  # nothing else shows it
    later = Asker(turns, make_lease(4))
    first.end()
    suspect.wait_for_refusal()
    later.wait_for_refusal()
    second.end()
    assert suspect.has_turn.wait(10), "the suspect waited longer than the later one"
    later.wait_for_refusal()
    assert (turns.is_held_by(make_lease(3)), turns.is_held_by(make_lease(4))) == (True, False)
    suspect.end()
    assert later.has_turn.wait(10)
    later.end()


def test_two_suspects_go_one_after_the_other() -> None:
    turns = EngineLock()
    one, other = Asker(turns, make_lease(1, suspect=True)), Asker(turns, make_lease(2, suspect=True))
    wait_until(lambda: one.has_turn.is_set() or other.has_turn.is_set(), "one of them")
    holder, waiting = (one, other) if one.has_turn.is_set() else (other, one)
    waiting.wait_for_refusal()
    holder.end()
    assert waiting.has_turn.wait(10)
    waiting.end()


def test_a_wait_ends_when_the_chunk_is_to_end() -> None:
    turns, drained = EngineLock(), threading.Event()
    holder = Asker(turns, make_lease(1, suspect=True))
    assert holder.has_turn.wait(10)
    waiting = [Asker(turns, make_lease(number, suspect=number == 2), drained.is_set) for number in (2, 3)]
    for asker in waiting:
        asker.wait_for_refusal()
    drained.set()
    for asker in waiting:
        assert asker.has_turn.wait(10)
        asker.end()
    holder.end()


def test_chunk_whose_engine_died_keeps_its_turn() -> None:
    turns, lease = EngineLock(), make_lease(1)
    with pytest.raises(EngineError), turns.acquire(lease, lambda: False):
        raise EngineError("gone")
    assert turns.is_held_by(lease)
    with pytest.raises(KeyError), turns.acquire(make_lease(2), lambda: False):
        raise KeyError
    assert not turns.is_held_by(make_lease(2))
