"""Aggregates over known numbers and empty input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.evaluation.metrics import mean_or_none, wilson_interval

PROPORTIONS = st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_mean_of_zero_samples_is_none() -> None:
    assert mean_or_none(0, 0) is None


def test_mean_is_total_divided_by_count() -> None:
    assert mean_or_none(3, 4) == 0.75
    assert mean_or_none(0, 4) == 0.0


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_match_published_values(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_interval_of_zero_samples_is_none() -> None:
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2), (0, -1)])
def test_impossible_counts_are_rejected(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= hits <= n"):
        wilson_interval(hits, n)


@given(PROPORTIONS)
def test_interval_contains_the_proportion(proportion: tuple[int, int]) -> None:
    hits, n = proportion
    interval = wilson_interval(hits, n)
    assert interval is not None
    assert 0.0 <= interval[0] <= hits / n <= interval[1] <= 1.0
    assert interval[0] < interval[1]


@given(PROPORTIONS)
def test_interval_is_symmetric_in_hits_and_misses(proportion: tuple[int, int]) -> None:
    hits, n = proportion
    of_hits, of_misses = wilson_interval(hits, n), wilson_interval(n - hits, n)
    assert of_hits is not None
    assert of_misses is not None
    assert of_misses == pytest.approx((1 - of_hits[1], 1 - of_hits[0]), abs=1e-9)


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_more_samples_narrow_the_interval(hits: int, misses: int) -> None:
    few, many = wilson_interval(hits, hits + misses), wilson_interval(10 * hits, 10 * (hits + misses))
    assert few is not None
    assert many is not None
    assert many[1] - many[0] < few[1] - few[0]
