"""Measure what a crash costs: the survivor's rate, engine deaths, and the time of a run with a poison.

    python -m benchmarks.crash_cost [--parts a,b,c,d,e,f,g] [--positions 5] [--kills 500] [--quick]

The engine answers "ok" after a latency and takes a load time to start.  Two workers run on one launcher, with a Redis and a
local store of their own.  Everything is observed through ``producer status --json``, ``results.parquet`` and the log of the
launcher.  Each part prints its measures, goals and whether they are met; the exit code is 1 if one is missed.

a  ``kill -9`` of one of two workers, no poison
b  one poison that ends the process with SIGSEGV 0.5 s after it was submitted; median and worst of several positions
c  three poisons in different chunks
d  as b, with a latency of 10 s
e  a poison at which the engine answers nothing any more
f  random SIGKILL and SIGTERM of workers, launchers and engine children over slow samples
g  a poison whose worker is ended by SIGKILL, as by the out-of-memory killer of a system that does not count
"""

import argparse
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.crash_cost.fleet import CostFleet, Ended, Speed, spread, start_fleet

POISON = "poison"


class Line(NamedTuple):
    """One measure of a part with its goal."""

    part: str
    measure: str
    value: float
    goal: str
    is_met: bool


class Scale(NamedTuple):
    """The sizes of a measurement."""

    samples: int
    load_s: float
    positions: int
    kills: int


def at_most(part: str, measure: str, value: float, limit: float) -> Line:
    return Line(part, measure, value, f"<= {limit:.2f}", value <= limit)


def at_least(part: str, measure: str, value: float, limit: float) -> Line:
    return Line(part, measure, value, f">= {limit:.2f}", value >= limit)


def run_clean(fleet: CostFleet, name: str, samples: int, words: dict[int, str] | None = None) -> Ended:
    """Enqueue a run while both workers are ready, and wait for its end."""
    deaths, started_s = fleet.count_deaths(), time.monotonic()
    run_id = fleet.enqueue(name, samples, words or {})
    return fleet.finish(run_id, started_s, deaths)


def warm_up(fleet: CostFleet, workers: int = 2) -> None:
    run_id = fleet.enqueue("warm", 2, {})
    fleet.wait(lambda status: status["state"] != "running", run_id)
    fleet.wait_for_workers(workers, run_id)


def check_outcomes(part: str, ended: Ended, poisons: int) -> list[Line]:
    convicted = sum(code == "engine_crashed" and row.startswith(POISON) for row, code in ended.failed.items())
    others = sum(ended.statuses.values()) - ended.statuses["ok"] - convicted
    return [at_least(part, "poisons convicted", convicted, poisons), at_most(part, "others that are not ok", others, 0)]


def measure_kill(folder: Path, scale: Scale) -> list[Line]:
    """Part a."""
    samples = scale.samples * 6
    with start_fleet(folder, Speed(scale.load_s, 1.0)) as fleet:
        warm_up(fleet)
        clean = run_clean(fleet, "clean", samples)
        deaths, started_s = fleet.count_deaths(), time.monotonic()
        run_id = fleet.enqueue("killed", samples, {})
        fleet.wait(lambda status: status["samples"]["ok"] > samples // 6, run_id)
        victim, survivor = fleet.status(run_id)["workers"][:2]
        before = find_rate(fleet, run_id, survivor["worker"])
        held = {chunk for run, chunk in victim["holds"] if run == run_id}
        psutil.Process(victim["pid"]).kill()
        killed_s, killed_at = time.monotonic(), time.time()
        rates = []
        while (status := fleet.status(run_id))["state"] == "running" and time.monotonic() < killed_s + scale.load_s:
            if time.monotonic() > killed_s + scale.load_s / 4:
                rates += [one["samples_per_s"] for one in status["workers"] if one["worker"] == survivor["worker"]]
            time.sleep(0.3)
        ended = fleet.finish(run_id, started_s, deaths)
    begun = fleet.read_takeovers()
    # A chunk that the victim had finished since its last heartbeat is not taken over.
    begun_s = max((begun[chunk] - killed_at for chunk in held & begun.keys()), default=999.0)
    lost_s = (scale.load_s + 3) / 2  # half of the rate is missing while one engine loads
    return [
        at_least("a", "survivor's rate after the kill / before", statistics.median(rates or [0]) / before, 0.9),
        at_most("a", "chunks of the dead worker begun elsewhere after (s)", begun_s, 20.0),
        at_most("a", "run time / what the rates allow", ended.seconds / (clean.seconds + lost_s), 1.15),
        *check_outcomes("a", ended, 0),
    ]


def find_rate(fleet: CostFleet, run_id: str, worker: str) -> float:
    time.sleep(3)
    return float(next(one["samples_per_s"] for one in fleet.status(run_id)["workers"] if one["worker"] == worker) or 0)


def measure_poison(
    part: str, folder: Path, scale: Scale, speed: Speed, *, poisons: int = 1, positions: int, loads: int, factor: float, deaths: int
) -> list[Line]:
    """Parts b to e: runs with ``poisons`` at ``positions`` places, judged by the clean time and ``loads``."""
    ends = {POISON: "hang" if speed.stall_s < 600 else "crash"}
    runs = []
    with start_fleet(folder, speed, ends) as fleet:
        warm_up(fleet)
        clean = run_clean(fleet, "clean", scale.samples)
        for position in range(positions):
            warm_up_again(fleet)
            words = dict.fromkeys(spread(poisons, scale.samples, position), POISON)
            runs.append(run_clean(fleet, f"poisoned-{position}", scale.samples, words))
            print(f"  {part}{position}: {runs[-1].seconds:.1f} s, {runs[-1].deaths} deaths, {dict(runs[-1].statuses)}", flush=True)
    stalls_s = speed.stall_s if speed.stall_s < 600 else 0.0
    limit_s = factor * (clean.seconds + loads * (speed.load_s + stalls_s))
    times = [run.seconds for run in runs]
    return [
        at_most(part, "run time (s), median", statistics.median(times), limit_s),
        at_most(part, "run time (s), worst", max(times), limit_s),
        at_most(part, "engine deaths, worst", max(run.deaths for run in runs), deaths),
        *(line for run in runs for line in check_outcomes(part, run, poisons)),
    ]


def warm_up_again(fleet: CostFleet) -> None:
    run_id = fleet.enqueue("warm", 2, {})
    fleet.wait_for_workers(2, run_id)


def measure_kills(folder: Path, scale: Scale) -> list[Line]:
    """Part f."""
    chance, kills = random.Random("kills"), 0
    with start_fleet(folder, Speed(1.0, 5.0)) as fleet:
        fleet.launchers.append(fleet.launch(2))
        deaths, started_s = fleet.count_deaths(), time.monotonic()
        rounds, lines = 0, []
        while kills < scale.kills:
            run_id = fleet.enqueue(f"slow-{rounds}", 64, {})
            while fleet.status(run_id)["state"] == "running":
                kills += kill_one(fleet, chance) if kills < scale.kills else 0
                time.sleep(chance.uniform(0.2, 2.0))
            if fleet.status(run_id)["state"] == "paused":
                print(f"  f: {fleet.status(run_id)['reason']}", flush=True)
            lines += check_outcomes("f", fleet.finish(run_id, started_s, deaths), 0)
            rounds += 1
    return [Line("f", "kills", kills, f">= {scale.kills}", kills >= scale.kills), *lines]


def kill_one(fleet: CostFleet, chance: random.Random) -> int:
    """Signal a random launcher, worker or engine child; replace a launcher that has ended.  Return how many were signalled."""
    for place, launcher in enumerate(fleet.launchers):
        if launcher.poll() is not None:
            fleet.launchers[place] = fleet.launch(2)
    workers = fleet.list_workers()
    children: list[psutil.Process] = []
    for worker in workers:
        with suppress(psutil.Error):
            children += worker.children()
    launchers = [psutil.Process(launcher.pid) for launcher in fleet.launchers[1:]]
    targets = chance.choices([workers, children, launchers], weights=[6, 6, 1])[0]
    if not targets:
        return 0
    with suppress(psutil.Error):
        chance.choice(targets).send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
    return 1


def measure_unseen(folder: Path, scale: Scale) -> list[Line]:
    """Part g."""
    with start_fleet(folder, Speed(min(scale.load_s, 3.0), 0.5), {POISON: "kill"}) as fleet:
        warm_up(fleet)
        ended = run_clean(fleet, "unseen", 256, {77: POISON})
    return [
        at_least("g", "run is paused, not looping", ended.state == "paused", 1),
        at_least("g", "reason names dataset and row", f"row {POISON} 77" in ended.reason, 1),
        at_most("g", "worker deaths", ended.deaths, 15),
        at_most("g", "samples convicted", len(ended.failed), 0),
    ]


def make_parts(scale: Scale) -> dict[str, Callable[[Path], list[Line]]]:
    slow = Speed(scale.load_s, 10.0)
    return {
        "a": lambda folder: measure_kill(folder, scale),
        "b": lambda folder: measure_poison(
            "b", folder, scale, Speed(scale.load_s, 1.0), positions=scale.positions, loads=5, factor=1.25, deaths=6
        ),
        "c": lambda folder: measure_poison(
            "c", folder, scale, Speed(scale.load_s, 1.0), poisons=3, positions=1, loads=15, factor=1.25, deaths=18
        ),
        "d": lambda folder: measure_poison("d", folder, scale, slow, positions=1, loads=8, factor=1.5, deaths=9),
        "e": lambda folder: measure_poison(
            "e", folder, scale, Speed(scale.load_s, 1.0, stall_s=5.0), positions=1, loads=5, factor=1.25, deaths=6
        ),
        "f": lambda folder: measure_kills(folder, scale),
        "g": lambda folder: measure_unseen(folder, scale),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="a,b,c,d,e,f,g")
    parser.add_argument("--positions", type=int, default=5, help="positions of the poison in part b")
    parser.add_argument("--kills", type=int, default=500, help="kills in part f")
    parser.add_argument("--quick", action="store_true", help="300 samples, loads of 3 s, one position, 40 kills")
    asked = parser.parse_args()
    scale = Scale(300, 3.0, 1, 40) if asked.quick else Scale(2000, 20.0, asked.positions, asked.kills)
    parts, lines = make_parts(scale), []
    with tempfile.TemporaryDirectory(prefix="crash-cost-") as folder:
        for part in asked.parts.split(","):
            lines += parts[part](Path(folder) / part)
            for line in [line for line in lines if line.part == part]:
                print(
                    f"{line.part}  {line.measure:<55} {line.value:>8.2f}  {line.goal:>10}  {'met' if line.is_met else 'MISSED'}",
                    flush=True,
                )
    return 0 if all(line.is_met for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
