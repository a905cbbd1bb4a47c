"""Measure the cost of a crash: the survivor's rate, engine deaths, and the time of a run with a poison sample.

    python -m benchmarks.crash_cost [--parts a,b,c,d,e,f,g] [--repeat 5] [--kills 500] [--seed 1] [--quick]

The engine answers "ok" after a latency and takes a load time to start. One launcher runs two workers, with a separate Redis and
local store. The benchmark observes them through ``producer status --json``, ``results.parquet`` and the launcher's log. Each
part prints its measures, their goals, and whether the goals are met. The exit code is 1 if a goal is missed.

a  ``kill -9`` of one of two workers, and of the child process of its engine; without a poison sample
b  one poison sample that ends the process with SIGSEGV after 0.5 s in the engine; median and worst of several positions
c  three poison samples in different chunks
d  as b, with a latency of 10 s
e  a poison sample at which the engine stops answering
f  random SIGKILL and SIGTERM of workers, launchers and engine children while slow samples run
g  a poison sample at which the worker gets SIGKILL, as from an out-of-memory killer without a counter; then a poison sample at
   which the out-of-memory killer of the control group ends the worker, if this process may create a control group

Each time limit of b to e is a factor times (clean time + loads). The clean time is measured in the same fleet. In c, three poison
samples may take three times the loads and deaths of one. In e, each load includes the time until a stall is detected.
"""

import argparse
import math
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.crash_cost.fleet import CostFleet, Ended, Speed, spread, start_fleet
from benchmarks.crash_cost.kills import measure_kills
from benchmarks.crash_cost.measures import POISON, Line, at_least, at_most, check_outcomes, print_line, skip
from benchmarks.crash_cost.memory_limit import NoMemoryLimit, open_memory_limit

RESTART_S = 3.0  # a worker's restart without the load of its engine
KILL_SAMPLES = 7_500  # 30 s for two workers with 128 samples in flight each, a rate that two cores reach easily
EDGE_S = 2.0
_MEMORY_BYTES = 2 * 2**30  # two workers and their launcher need a third of this, a poison sample needs twice as much


class Scale(NamedTuple):
    """The sizes of a measurement.

    ``restart_s`` is the time of a restart and of the launcher's pause before the restart. The time limits of parts b to e add it
    to ``load_s`` for each load. It is 0 if a load takes much longer than a restart.
    """

    samples: int
    load_s: float
    repeat: int
    kills: int
    restart_s: float


def run_clean(fleet: CostFleet, name: str, samples: int, words: dict[int, str] | None = None) -> Ended:
    """Enqueue a run while both workers are ready, and wait for its end."""
    deaths, started_s = fleet.count_deaths(), time.monotonic()
    run_id = fleet.enqueue(name, samples, words or {})
    return fleet.finish(run_id, started_s, deaths)


def warm_up(fleet: CostFleet) -> None:
    run_id = fleet.enqueue("warm", 2, {})
    fleet.wait(lambda status: status["state"] != "running", run_id)
    fleet.wait_for_workers(2, run_id)


def measure_kill(folder: Path, scale: Scale) -> list[Line]:
    """Measure part a, once for each victim and repetition. Each measure is the median."""
    with start_fleet(folder, Speed(scale.load_s, 1.0, in_flight=128)) as fleet:
        warm_up(fleet)
        clean = run_clean(fleet, "clean", KILL_SAMPLES)
        lines = []
        for victim in ("worker", "engine child"):
            killed = [kill_and_measure(fleet, scale, clean, victim, number) for number in range(scale.repeat)]
            rate, begun_s, share = (statistics.median(measures) for measures in zip(*(one[:3] for one in killed), strict=True))
            lines += [
                at_least("a", f"{victim}: survivor's rate after the kill / before", rate, 0.9),
                at_most("a", f"{victim}: its chunks taken over after (s)", begun_s, 20.0),
                at_most("a", f"{victim}: run time / time at these rates", share, 1.15),
                *check_outcomes("a", [one.ended for one in killed], 0)[1:],
            ]
    return lines


class Killed(NamedTuple):
    """The effects of a kill.

    - ``rate`` is the survivor's rate divided by its rate before the kill.
    - ``begun_s`` is the longest takeover in seconds.
    - ``time`` is the run time divided by the allowed time.
    """

    rate: float
    begun_s: float
    time: float
    ended: Ended


def kill_and_measure(fleet: CostFleet, scale: Scale, clean: Ended, victim: str, number: int) -> Killed:
    """Kill one of two workers, or its engine's child, in the middle of a run."""
    fleet.restart_launchers()  # a launcher waits longer after each consecutive death of a worker
    warm_up_again(fleet)
    deaths, started_s = fleet.count_deaths(), time.monotonic()
    run_id = fleet.enqueue(f"{victim} {number}".replace(" ", "-"), KILL_SAMPLES, {})
    killed, survivor = fleet.wait(lambda status: status["samples"]["ok"] > KILL_SAMPLES // 4, run_id)["workers"][:2]
    worker = psutil.Process(killed["pid"])
    (worker if victim == "worker" else worker.children()[0]).kill()
    killed_at = time.time()
    ended = fleet.finish(run_id, started_s, deaths)
    begun = fleet.read_takeovers(run_id, killed_at)
    begun_s = max(begun.values(), default=math.inf) - killed_at  # only the killed worker lost chunks
    allowed_s = clean.seconds + (scale.load_s + RESTART_S) / 2  # half of the rate is missing while one engine starts
    rate = compare_rates(fleet.read_answers(run_id, survivor["worker"]), killed_at, fleet.find_ready(killed["worker"], killed_at))
    return Killed(rate, begun_s, ended.seconds / allowed_s, ended)


def compare_rates(answers: Sequence[float], killed_at: float, back_at: float) -> float:
    """Return a worker's rate between a kill and the victim's return, divided by its rate before the kill.

    ``answers`` are the sorted times of its answers. The first and the last ``EDGE_S`` do not count, because the engine is not
    full then.
    """
    begins, ends = answers[0] + EDGE_S, min(back_at, answers[-1] - EDGE_S)
    before = sum(begins <= at < killed_at for at in answers) / (killed_at - begins)
    after = sum(killed_at <= at < ends for at in answers) / (ends - killed_at)
    return after / before


def measure_poison(
    part: str, folder: Path, scale: Scale, speed: Speed, *, poisons: int = 1, positions: int, loads: int, factor: float, deaths: int
) -> list[Line]:
    """Measure parts b to e: a run for each of the ``positions``, with ``poisons`` poison samples.

    The limit is computed from the clean time, ``loads`` and ``factor``.
    """
    ends = {POISON: "hang" if speed.stall_s < 600 else "crash"}
    runs = []
    with start_fleet(folder, speed, ends) as fleet:
        warm_up(fleet)
        clean = run_clean(fleet, "clean", scale.samples)
        for position in range(positions):
            if position:
                fleet.restart_launchers()  # a launcher increases its pause before a restart with each consecutive death
            warm_up_again(fleet)
            words = dict.fromkeys(spread(poisons, scale.samples, position), POISON)
            runs.append(run_clean(fleet, f"poisoned-{position}", scale.samples, words))
            print(f"  {part}{position}: {runs[-1].seconds:.1f} s, {runs[-1].deaths} deaths, {dict(runs[-1].statuses)}", flush=True)
    stalls_s = speed.stall_s if speed.stall_s < 600 else 0.0
    limit_s = factor * (clean.seconds + loads * (speed.load_s + scale.restart_s + stalls_s))
    times = [run.seconds for run in runs]
    return [
        at_most(part, "run time (s), median", statistics.median(times), limit_s),
        at_most(part, "run time (s), worst", max(times), limit_s),
        at_most(part, "engine deaths, worst", max(run.deaths for run in runs), deaths),
        *check_outcomes(part, runs, poisons),
    ]


def warm_up_again(fleet: CostFleet) -> None:
    run_id = fleet.enqueue("warm", 2, {})
    fleet.wait_for_workers(2, run_id)


def measure_unseen(folder: Path, scale: Scale) -> list[Line]:
    """Measure part g: once without a counter, and once in a control group that counts out-of-memory kills."""
    lines = measure_unproved(folder, scale, "kill")
    try:
        with open_memory_limit(_MEMORY_BYTES) as group:
            return lines + measure_unproved(folder.with_name("memory"), scale, "memory", group)
    except NoMemoryLimit as reason:
        return [*lines, skip("g", "memory: control group with a limit", str(reason))]


def measure_unproved(folder: Path, scale: Scale, way: str, group: Path | None = None) -> list[Line]:
    with start_fleet(folder, Speed(min(scale.load_s, 3.0), 0.5), {POISON: way}, control_group=group) as fleet:
        warm_up(fleet)
        ended = run_clean(fleet, "unseen", 256, {77: POISON})
        causes = Counter(record["cause"] for record in fleet.read_events("worker.exited"))
    lines = [
        at_least("g", f"{way}: run is paused", ended.state == "paused", 1),
        at_least("g", f"{way}: reason names dataset and row", f"row {POISON} 77" in ended.reason, 1),
        at_most("g", f"{way}: worker deaths", ended.deaths, 15),
        at_most("g", f"{way}: samples failed", len(ended.failed), 0),
    ]
    if group is not None:
        lines.append(at_least("g", f"{way}: deaths with the cause out_of_memory", causes["out_of_memory"], 1))
    return lines


def make_parts(scale: Scale, seed: int) -> dict[str, Callable[[Path], list[Line]]]:
    slow = Speed(scale.load_s, scale.load_s / 2)
    return {
        "a": lambda folder: measure_kill(folder, scale),
        "b": lambda folder: measure_poison(
            "b", folder, scale, Speed(scale.load_s, 1.0), positions=scale.repeat, loads=5, factor=1.25, deaths=6
        ),
        "c": lambda folder: measure_poison(
            "c", folder, scale, Speed(scale.load_s, 1.0), poisons=3, positions=1, loads=15, factor=1.25, deaths=18
        ),
        "d": lambda folder: measure_poison("d", folder, scale, slow, positions=1, loads=8, factor=1.5, deaths=9),
        "e": lambda folder: measure_poison(
            "e", folder, scale, Speed(scale.load_s, 1.0, stall_s=5.0), positions=1, loads=5, factor=1.25, deaths=6
        ),
        "f": lambda folder: measure_kills(folder, scale.kills, seed),
        "g": lambda folder: measure_unseen(folder, scale),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="a,b,c,d,e,f,g")
    parser.add_argument("--repeat", type=int, default=5, help="kills of each process in part a, positions of the sample in part b")
    parser.add_argument("--kills", type=int, default=500, help="kills in part f")
    parser.add_argument("--seed", type=int, default=1, help="seed of the kills in part f")
    parser.add_argument("--quick", action="store_true", help="300 samples, loads of 3 s, one repetition, 40 kills")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # an orderly exit ends all processes
    scale = Scale(300, 3.0, 1, 40, 2 * RESTART_S) if asked.quick else Scale(2000, 20.0, asked.repeat, asked.kills, 0.0)
    parts, lines = make_parts(scale, asked.seed), []
    print_machine(scale)
    with tempfile.TemporaryDirectory(prefix="crash-cost-") as folder:
        for part in asked.parts.split(","):
            lines += parts[part](Path(folder) / part)
            for line in [line for line in lines if line.part == part]:
                print_line(line)
    return 0 if all(line.is_met is not False for line in lines) else 1


def print_machine(scale: Scale) -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "obstore", "pyarrow", "pydantic"))
    print(f"{time.strftime('%Y-%m-%d')}: {' '.join(sys.argv[1:])}; {scale}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}; {packages}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
