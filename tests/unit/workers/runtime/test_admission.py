"""``AdmissionGate`` admits a chunk while fewer samples than its limit wait for an answer."""

import threading
from collections import Counter

import pytest

from tests.support.waiting import wait_until
from workers.runtime.admission import AdmissionGate, Permit


class Chunks:
    """Chunks that request admission, each in its own thread. They hold their permits until ``end``."""

    def __init__(self, gate: AdmissionGate) -> None:
        self.permits: list[Permit] = []
        self.refused: Counter[int] = Counter()
        self._gate = gate
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def ask(self, samples: int, *, may_wait: bool = True) -> None:
        number = len(self._threads)

        def must_begin() -> bool:
            self.refused[number] += 1  # the gate calls this only when it is full
            return self._ended.is_set() or not may_wait

        def hold() -> None:
            with self._gate.admit(samples, must_begin) as permit:
                self.permits.append(permit)
                self._ended.wait()  # without timeout: a timeout would admit the next chunk and hide a blocked gate

        self._threads.append(threading.Thread(target=hold))
        self._threads[-1].start()

    def wait_for_refusals(self) -> None:
        """Block until the gate refuses each chunk without a permit again."""
        before = self.refused.copy()
        waiting = len(self._threads) - len(self.permits)

        def all_refused() -> bool:
            return sum(self.refused[number] > before[number] for number in range(len(self._threads))) >= waiting

        wait_until(all_refused, f"the gate to refuse {waiting} chunks", deadline_s=10)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def chunks() -> Chunks:
    return Chunks(AdmissionGate(100))


def test_chunks_start_until_enough_samples_wait(chunks: Chunks) -> None:
    try:
        for _ in range(6):
            chunks.ask(64)
        wait_until(lambda: len(chunks.permits) == 2, "two chunks: 64 samples leave room for the second")
        chunks.permits[0].release(28)
        chunks.wait_for_refusals()
        assert len(chunks.permits) == 2, "100 samples still wait"
        chunks.permits[1].release(1)
        wait_until(lambda: len(chunks.permits) == 3, "a third chunk")
        chunks.permits[0].release(36)
        chunks.wait_for_refusals()
        assert len(chunks.permits) == 3, "63 and 64 samples wait"
        chunks.permits[1].release(63)
        wait_until(lambda: len(chunks.permits) == 4, "a fourth chunk")
    finally:
        chunks.end()


def test_chunk_larger_than_limit_runs_alone(chunks: Chunks) -> None:
    try:
        chunks.ask(4096)
        wait_until(lambda: len(chunks.permits) == 1, "the large chunk")
        chunks.ask(1)
        chunks.wait_for_refusals()
        chunks.permits[0].release(3997)
        wait_until(lambda: len(chunks.permits) == 2, "the small chunk")
    finally:
        chunks.end()


def test_chunk_that_must_not_wait_starts(chunks: Chunks) -> None:
    try:
        chunks.ask(200)
        wait_until(lambda: len(chunks.permits) == 1, "a chunk that leaves no room")
        chunks.ask(64)
        chunks.wait_for_refusals()
        chunks.ask(64, may_wait=False)
        wait_until(lambda: len(chunks.permits) == 2, "the chunk that does not wait")
        chunks.wait_for_refusals()
        assert len(chunks.permits) == 2, "the other chunk waits"
    finally:
        chunks.end()


def test_failed_chunk_returns_its_permit() -> None:
    gate = AdmissionGate(1)
    with pytest.raises(ZeroDivisionError), gate.admit(64, lambda: False) as permit:
        permit.release(10 // 0)
    with gate.admit(64, lambda: pytest.fail("the gate did not release the permit")):  # the gate calls this only when it is full
        pass
