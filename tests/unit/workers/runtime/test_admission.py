"""The intake: another chunk begins while fewer than enough samples wait for an answer."""

import threading
from collections.abc import Callable

import pytest

from tests.support.waiting import wait_until
from workers.runtime.admission import AdmissionGate, Permit


class Begun:
    """Chunks that ask for admission, each from a thread of its own, and keep their place until they are let go."""

    def __init__(self, intake: AdmissionGate) -> None:
        self.places: list[Permit] = []
        self._intake = intake
        self._threads: list[threading.Thread] = []
        self._leaving = threading.Event()

    def ask(self, samples: int, until: Callable[[], bool] = lambda: False) -> None:
        def keep() -> None:
            with self._intake.admit(samples, lambda: self._leaving.is_set() or until()) as place:
                self.places.append(place)
                self._leaving.wait(30)

        self._threads.append(threading.Thread(target=keep))
        self._threads[-1].start()

    def end(self) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def begun() -> Begun:
    return Begun(AdmissionGate(100))


def test_chunks_begin_until_enough_samples_wait_and_one_more_for_each_room(begun: Begun) -> None:
    try:
        for _ in range(6):
            begun.ask(64)
        wait_until(lambda: len(begun.places) == 2, "two chunks, the second because 64 are not enough")
        begun.places[0].leave(28)
        assert len(begun.places) == 2  # 100 wait still
        begun.places[1].leave(1)
        wait_until(lambda: len(begun.places) == 3, "a third chunk")
        begun.places[0].leave(36)
        assert len(begun.places) == 3  # 63 and 64 wait
        begun.places[1].leave(63)
        wait_until(lambda: len(begun.places) == 4, "a fourth chunk")
    finally:
        begun.end()


def test_a_chunk_larger_than_enough_begins_once_there_is_any_room(begun: Begun) -> None:
    try:
        begun.ask(4096)
        wait_until(lambda: len(begun.places) == 1, "the large chunk")
        begun.ask(1)
        begun.places[0].leave(3997)
        wait_until(lambda: len(begun.places) == 2, "the small one")
    finally:
        begun.end()


def test_who_must_not_wait_does_not(begun: Begun) -> None:
    try:
        begun.ask(200)
        wait_until(lambda: len(begun.places) == 1, "a chunk that leaves no room")
        begun.ask(64, until=lambda: True)
        wait_until(lambda: len(begun.places) == 2, "the one that does not wait")
    finally:
        begun.end()


def test_a_chunk_that_fails_leaves_its_place() -> None:
    intake = AdmissionGate(1)
    with pytest.raises(ZeroDivisionError), intake.admit(64, lambda: False) as place:
        place.leave(10 // 0)
    with intake.admit(64, lambda: False):
        pass  # would wait for ever
