"""Group testing: choose the samples of a quarantined chunk that run together, so that few deaths find the sample at fault.

An engine death costs a load of the model. A group without a death costs one latency. Splitting ``n`` samples into ``k`` groups
at each level costs about ``log_k(n) * ((k - 1) * latency + load)``. The chosen ``k`` has the lowest cost. This repeats Dorfman's
scheme (R. Dorfman, The Detection of Defective Members of Large Populations, 1943). The functions are pure.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from common.deaths import DeathCause

Group = tuple[str, ...]
Deaths = Mapping[Group, Counter[DeathCause]]

RESTART_S = 3.0  # a worker's start without the load of its model: backoff and imports


def plan_groups(waiting: Sequence[str], deaths: Deaths, *, load_s: float, latency_s: float) -> list[Group]:
    """Return the groups to run one after the other.

    Samples that were not in a group at a death come first, in large groups. The samples of each group that died follow, in
    smaller groups.
    """
    parts: dict[Group, list[str]] = {}
    for sample_id in waiting:
        parts.setdefault(_find_smallest(sample_id, deaths), []).append(sample_id)
    # The empty group has the samples without a death.
    ordered = sorted(parts.items(), key=lambda part: (bool(part[0]), -len(part[0])))
    return [group for _, samples in ordered for group in _split(samples, choose_group_size(len(samples), load_s, latency_s))]


def choose_group_size(samples: int, load_s: float, latency_s: float) -> int:
    """Return the group size with the lowest expected cost for one sample at fault among ``samples``.

    The size is less than ``samples``, or 1.
    """
    if samples < 2:
        return 1

    def cost(groups: int) -> float:
        levels = math.ceil(math.log(samples) / math.log(groups) - 1e-9)
        return levels * ((groups - 1) * latency_s + load_s + RESTART_S)

    return math.ceil(samples / min(range(2, samples + 1), key=cost))


def count_attributed(deaths: Mapping[DeathCause, int]) -> int:
    """Return the number of deaths that are attributed to the samples that ran."""
    return sum(times for cause, times in deaths.items() if cause.is_attributed)


def describe_deaths(deaths: Mapping[DeathCause, int]) -> str:
    """Return the causes of deaths as text, such as ``2 crash, 1 stall``."""
    return ", ".join(f"{times} {cause.replace('_', ' ')}" for cause, times in deaths.items() if times)


def _find_smallest(sample_id: str, deaths: Iterable[Group]) -> Group:
    return min((group for group in deaths if sample_id in group), key=len, default=())


def _split(samples: Sequence[str], size: int) -> list[Group]:
    return [tuple(samples[at : at + size]) for at in range(0, len(samples), size)]
