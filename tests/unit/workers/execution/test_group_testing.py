"""Group testing: every sample runs, each death at least halves the suspects, and the cost stays near the optimum."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.deaths import DeathCause
from workers.execution.group_testing import Group, choose_group_size, describe_deaths, plan_groups

CRASH = Counter({DeathCause.CRASH: 1})


@pytest.mark.parametrize(
    ("samples", "load_s", "latency_s", "size"),
    [
        (1, 20, 1, 1),
        (2, 20, 1, 1),
        (64, 20, 1, 8),  # two levels of 8 groups
        (64, 20, 10, 16),  # three levels of 4 groups
        (64, 600, 1, 1),  # a load takes longer than all samples run one at a time
        (64, 1, 600, 32),  # halves
    ],
)
def test_group_size_depends_on_load_and_latency(samples: int, load_s: float, latency_s: float, size: int) -> None:
    assert choose_group_size(samples, load_s, latency_s) == size


@given(st.integers(2, 512), st.floats(0, 1000), st.floats(0, 1000))
def test_size_is_always_smaller_than_the_group(samples: int, load_s: float, latency_s: float) -> None:
    assert 1 <= choose_group_size(samples, load_s, latency_s) < samples


def test_samples_without_a_death_run_first() -> None:
    deaths = {("a", "b", "c", "d"): CRASH, ("c", "d"): CRASH}
    groups = plan_groups(["a", "b", "c", "d", "e"], deaths, load_s=0, latency_s=1e6)
    assert groups == [("e",), ("a",), ("b",), ("c",), ("d",)]


@given(
    st.integers(1, 80),
    st.sets(st.integers(0, 79), max_size=4),
    st.floats(0, 100),
    st.floats(0.01, 100),
)
def test_search_finds_exactly_the_poison_samples(samples: int, faulty: set[int], load_s: float, latency_s: float) -> None:
    """Each death ends the search, as in a worker. The next search continues with the deaths in the ledger."""
    waiting = [str(number) for number in range(samples)]
    poisons = {str(number) for number in faulty if number < samples}
    deaths: dict[Group, Counter[DeathCause]] = {}
    convicted: set[str] = set()
    loads = 0
    while waiting:
        loads += 1
        for group in plan_groups(waiting, deaths, load_s=load_s, latency_s=latency_s):
            if deaths.get(group, Counter()).total() >= 2 and len(group) == 1:
                convicted.update(group)
            elif poisons & set(group):
                deaths.setdefault(group, Counter())[DeathCause.CRASH] += 1
                break
            waiting = [sample for sample in waiting if sample not in group]
    assert convicted == poisons
    assert loads <= 1 + len(poisons) * (samples.bit_length() + 1)


def test_deaths_are_described_by_cause() -> None:
    assert describe_deaths(Counter({DeathCause.CRASH: 2, DeathCause.OUT_OF_MEMORY: 1})) == "2 crash, 1 out of memory"
