"""Whose turn the engine has: chunks together, a suspect alone, and nobody waits for ever."""

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
    """A chunk's thread that takes its turn, keeps it until told to end, and notes who had one beside it."""

    def __init__(self, turns: EngineLock, lease: Lease, until: Callable[[], bool] = lambda: False) -> None:
        self.has_turn, self.may_end = threading.Event(), threading.Event()
        self._turns, self._lease, self._until = turns, lease, until
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.may_end.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _ask(self) -> None:
        with self._turns.take(self._lease, self._until):
            self.has_turn.set()
            self.may_end.wait(10)


def test_chunks_ask_together_and_a_suspect_waits_for_them_and_is_then_alone() -> None:
    turns = EngineLock()
    first, second = Asker(turns, make_lease(1)), Asker(turns, make_lease(2))
    assert first.has_turn.wait(10)
    assert second.has_turn.wait(10)
    suspect = Asker(turns, make_lease(3, suspect=True))
    wait_until(lambda: turns._suspects_waiting == 1, "the suspect to wait")  # noqa: SLF001  # nothing else shows it
    later = Asker(turns, make_lease(4))
    first.end()
    assert not suspect.has_turn.is_set()
    second.end()
    assert suspect.has_turn.wait(10), "the suspect waited longer than the later one"
    assert not later.has_turn.wait(0.3)
    assert (turns.is_asking(make_lease(3)), turns.is_asking(make_lease(4))) == (True, False)
    suspect.end()
    assert later.has_turn.wait(10)
    later.end()


def test_two_suspects_go_one_after_the_other() -> None:
    turns = EngineLock()
    one, other = Asker(turns, make_lease(1, suspect=True)), Asker(turns, make_lease(2, suspect=True))
    wait_until(lambda: one.has_turn.is_set() or other.has_turn.is_set(), "one of them")
    assert not (one.has_turn.is_set() and other.has_turn.is_set())
    for asker in sorted((one, other), key=lambda asker: not asker.has_turn.is_set()):
        assert asker.has_turn.wait(10)
        asker.end()


def test_a_wait_ends_when_the_chunk_is_to_end() -> None:
    turns, drained = EngineLock(), threading.Event()
    holder = Asker(turns, make_lease(1, suspect=True))
    assert holder.has_turn.wait(10)
    waiting = [Asker(turns, make_lease(number, suspect=number == 2), drained.is_set) for number in (2, 3)]
    drained.set()
    for asker in waiting:
        assert asker.has_turn.wait(10)
        asker.end()
    holder.end()


def test_whoever_learns_that_the_engine_died_stays_among_those_that_may_be_to_blame() -> None:
    turns, lease = EngineLock(), make_lease(1)
    with pytest.raises(EngineError), turns.take(lease, lambda: False):
        raise EngineError("gone")
    assert turns.is_asking(lease)
    with pytest.raises(KeyError), turns.take(make_lease(2), lambda: False):
        raise KeyError
    assert not turns.is_asking(make_lease(2))
