"""A worker that does not take messages reports trouble only while messages wait and the worker has room."""

from types import SimpleNamespace

import pytest
from celery.worker import state

from common.settings import Settings
from workers.recovery.consumption import Consumption

SETTINGS = Settings(lease_s=10, chunks_in_flight=2)


class Clock:
    """The time, the queue and the tasks of a worker. Only the test changes them."""

    def __init__(self) -> None:
        self.now, self.waiting = 100.0, 0
        self.running: list[SimpleNamespace] = []
        self._consumption = Consumption(lambda: self.waiting, SETTINGS)

    def look_after(self, seconds: float) -> str | None:
        """Advance the time with one heartbeat per second. Return the trouble of the last heartbeat."""
        trouble = None
        for _ in range(int(seconds)):
            self.now += 1
            trouble = self._consumption.describe_trouble()
        return trouble

    def take_message(self) -> None:
        state.all_total_count[0] += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("workers.recovery.consumption.time.monotonic", lambda: made.now)
    monkeypatch.setattr(state, "all_total_count", [0])
    monkeypatch.setattr(state, "reserved_requests", made.running)
    return made


def test_waiting_messages_are_reported_after_three_leases(clock: Clock) -> None:
    clock.waiting = 1200
    assert clock.look_after(30) is None
    assert "has not taken a message for 30 s although 1,200 wait" in str(clock.look_after(1))


def test_empty_queue_is_not_reported(clock: Clock) -> None:
    assert clock.look_after(1000) is None
    clock.waiting = 1
    assert clock.look_after(29) is None


def test_full_worker_is_not_reported(clock: Clock) -> None:
    clock.waiting = 5
    clock.running += [SimpleNamespace(), SimpleNamespace()]
    assert clock.look_after(1000) is None
    clock.running.pop()
    assert clock.look_after(29) is None
    assert clock.look_after(1)


def test_taken_message_clears_the_trouble(clock: Clock) -> None:
    clock.waiting = 5
    assert clock.look_after(40)
    clock.take_message()
    assert clock.look_after(30) is None
