"""The stall time of the engine starts with a request and restarts with each answer."""

import pytest

from workers.recovery.stall_detector import StallDetector


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only element is the current time. Only the test advances it."""
    now = [100.0]
    monkeypatch.setattr("workers.recovery.stall_detector.time.monotonic", lambda: now[0])
    return now


def test_idle_engine_is_not_stalled(clock: list[float]) -> None:
    stalls = StallDetector()
    clock[0] += 1000
    assert stalls.stalled_s == 0
    with stalls.track_request():
        clock[0] += 5
        assert stalls.stalled_s == 5
    clock[0] += 1000
    assert stalls.stalled_s == 0


def test_any_answer_resets_the_stall_time(clock: list[float]) -> None:
    stalls = StallDetector()
    with stalls.track_request():
        clock[0] += 50
        with stalls.track_request():
            clock[0] += 9
            assert stalls.stalled_s == 59, "another request is not an answer"
        assert stalls.stalled_s == 0
        clock[0] += 3
        assert stalls.stalled_s == 3


def test_failed_request_counts_as_answered(clock: list[float]) -> None:
    stalls = StallDetector()
    with pytest.raises(RuntimeError), stalls.track_request():
        raise RuntimeError
    assert stalls.stalled_s == 0
