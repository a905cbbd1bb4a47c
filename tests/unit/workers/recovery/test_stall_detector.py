"""How long the engine has been silent: from a question on, and anew from every answer."""

import pytest

from workers.recovery.stall_detector import StallDetector


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, which stands still until the test moves it."""
    now = [100.0]
    monkeypatch.setattr("workers.recovery.stall_detector.time.monotonic", lambda: now[0])
    return now


def test_an_engine_that_is_asked_nothing_is_not_silent(clock: list[float]) -> None:
    stalls = StallDetector()
    clock[0] += 1000
    assert stalls.stalled_s == 0
    with stalls.track_request():
        clock[0] += 5
        assert stalls.stalled_s == 5
    clock[0] += 1000
    assert stalls.stalled_s == 0


def test_one_answer_among_many_questions_breaks_the_silence(clock: list[float]) -> None:
    stalls = StallDetector()
    with stalls.track_request():
        clock[0] += 50
        with stalls.track_request():
            clock[0] += 9
            assert stalls.stalled_s == 59, "a further question is no answer"
        assert stalls.stalled_s == 0
        clock[0] += 3
        assert stalls.stalled_s == 3


def test_a_question_that_fails_is_answered(clock: list[float]) -> None:
    stalls = StallDetector()
    with pytest.raises(RuntimeError), stalls.track_request():
        raise RuntimeError
    assert stalls.stalled_s == 0
