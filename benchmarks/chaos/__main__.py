"""The chaos soak: inject random faults into a fleet, and check that samples are not lost or counted twice.

    python -m benchmarks.chaos --seed 1 --minutes 3 --samples 10000 [--workers 6] [--every 5]

The soak starts a Redis, a local store and one launcher for each worker. One worker runs the tiny model on the CPU. The other
workers run an echo engine that takes 0.1 s for each answer. Each model always has a run: when a run ends, the next run is
enqueued. ``faults.FAULTS`` lists the faults. The same seed gives the same sequence of faults, except for faults that the state
of the fleet does not permit. After ``--minutes`` or ``--kills``, the faults stop and every run must end.

At any moment, at least one echo worker is not affected by a fault. The tiny model has a single worker, so a takeover of its chunks
includes its restart. Those takeovers are listed separately, without a limit. The duration of a takeover is the time from the
death or stop of a holder to the next lease of the chunk. Attempts are repeated after a kill, after a stop of a worker, and after
a rebuild of the ledger.

The exit code is 1 if a sample is lost or duplicated, if a run did not end or is inconsistent, if a process remains after the drain,
or if the 99th percentile of takeovers is over 20 s. It is 130 after an interrupt. Settings come from ``FLEET_*`` variables.
"""

import argparse
import math
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from benchmarks.chaos.engine import count_asked
from benchmarks.chaos.faults import FAULTS, draw_faults
from benchmarks.chaos.fleet import ECHO, TINY, ChaosFleet
from benchmarks.chaos.takeover import TAKEOVER_LIMIT_S, find_percentile
from benchmarks.chaos.verdict import Verdict, judge_run
from common.settings import Settings
from producer.demo.redis_server import start_redis

_TICK_S = 0.05
_LINE_S = 5.0
_PATIENCE_S = 20.0  # the longest wait for a state of the fleet that permits a fault
_STALL_S = 180.0  # if no chunk is committed for this time after the faults, the runs are considered stalled
_UP_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3.0, help="maximum duration of the faults")
    parser.add_argument("--kills", type=int, default=math.inf, help="stop the faults after this number of kills")
    parser.add_argument("--samples", type=int, default=10_000, help="samples in each run of the echo engine")
    parser.add_argument("--workers", type=int, default=6, help="number of workers; one of them runs the tiny model")
    parser.add_argument("--every", type=float, default=5.0, help="mean time between two faults in seconds")
    asked = parser.parse_args()
    if asked.workers < 3:
        parser.error(
            f"--workers: found {asked.workers}; expected 3 or more: two echo workers, of which one always runs, and one tiny model"
        )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        sys.exit(soak(asked))
    except KeyboardInterrupt:
        print("interrupted; all processes have ended")
        sys.exit(130)


def soak(asked: argparse.Namespace) -> int:
    """Run the soak, print its table and return the exit code.

    Keep the logs and the store if a check failed or a takeover was slow.
    """
    folder = Path(tempfile.mkdtemp(prefix="vlm-fleet-chaos-"))
    try:
        with start_redis(folder / "redis") as server:
            settings = Settings(redis_url=server.url, store_url=f"file://{folder}/store")
            fleet = ChaosFleet(folder, server, settings, asked.workers, asked.samples)
            wrongs, slow = shake(asked, fleet), fleet.takeovers.slow
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise
    if slow:
        print(f"takeovers over {TAKEOVER_LIMIT_S:.0f} s:", *slow, sep="\n  ")
    if wrongs:
        print("failed checks:", *wrongs, sep="\n  ")
    if slow or wrongs:
        print(f"the logs, the file of Redis and the store are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if wrongs else 0


def shake(asked: argparse.Namespace, fleet: ChaosFleet) -> list[str]:
    """Inject faults for the requested time, wait for all runs, print the table and return the failed checks.

    All processes of the fleet have ended when this function returns.
    """
    show = Display(fleet, asked.minutes * 60)
    try:
        fleet.start()
        struck = strike(fleet, asked, show)
        await_the_end(fleet, show)
        verdict = sum((judge_run(run.run_id, fleet.store, fleet.ledger) for run in fleet.runs if run.run_id), Verdict())
        fleet.drain()
    finally:
        show.stop()
        left = fleet.end()
    print_table(asked, fleet, struck, verdict, left)
    return find_wrongs(fleet, verdict, left)


def strike(fleet: ChaosFleet, asked: argparse.Namespace, show: "Display") -> Counter[str]:
    """Wait for two workers, then inject faults until the time limit or the number of kills is reached.

    Return the number of injected faults of each kind.
    """
    wait_for(fleet, show, lambda: len(fleet.find_ready(ECHO)) > 1 and bool(fleet.open_runs), _UP_S)
    struck: Counter[str] = Counter()

    def is_over() -> bool:
        return show.left_s <= 0 or count_kills(fleet, struck) >= asked.kills

    show.begin(struck)
    for draw in draw_faults(asked.seed, asked.every):
        wait_for(fleet, show, is_over, draw.pause_s)
        if is_over():
            return struck
        fault, patience_s = FAULTS[draw.kind], min(_PATIENCE_S, show.left_s)
        if wait_for(fleet, show, lambda fault=fault, draw=draw: fault.strike(fleet, draw), patience_s):  # type: ignore[misc]
            struck[draw.kind] += 1
        elif not is_over():
            struck["not permitted"] += 1
    raise AssertionError("draw_faults yields an unlimited sequence")


def await_the_end(fleet: ChaosFleet, show: "Display") -> None:
    """Wait until all runs have ended, or until workers have not committed a chunk for ``_STALL_S`` seconds."""
    fleet.no_more_runs = True
    done, since = -1, time.monotonic()
    while (fleet.open_runs or not fleet.is_quiet) and time.monotonic() - since < _STALL_S:
        fleet.tick()
        show.show()
        if show.samples_done > done:
            done, since = show.samples_done, time.monotonic()
        time.sleep(_TICK_S)


def wait_for(fleet: ChaosFleet, show: "Display", condition: Callable[[], bool], limit_s: float) -> bool:
    """Wait until the condition holds, at most ``limit_s`` seconds. Return whether it holds."""
    ends_at = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= ends_at:
            return False
        fleet.tick()
        show.show()
        time.sleep(_TICK_S)
    return True


class Display:
    """Shows the progress: one line that is updated in a terminal, otherwise a new line every few seconds."""

    def __init__(self, fleet: ChaosFleet, seconds: float) -> None:
        self._fleet = fleet
        self._seconds = seconds
        self._struck: Counter[str] = Counter()
        self._begun_at: float | None = None
        self._shown_at = time.monotonic()
        console = Console()
        self._status = console.status("starting") if console.is_terminal else None
        if self._status:
            self._status.start()

    def begin(self, struck: Counter[str]) -> None:
        """Start the timer. ``struck`` counts the faults and is updated by the caller."""
        self._begun_at, self._struck = time.monotonic(), struck

    @property
    def left_s(self) -> float:
        """The remaining seconds in which faults are injected."""
        return self._seconds if self._begun_at is None else max(0.0, self._begun_at + self._seconds - time.monotonic())

    @property
    def samples_done(self) -> int:
        return sum(sum(run.view.counts.values()) for run in self._fleet.runs if run.view)

    def show(self) -> None:
        if time.monotonic() - self._shown_at < _LINE_S:
            return
        self._shown_at = time.monotonic()
        if self._status:
            self._status.update(self._describe())
        else:
            print(self._describe(), flush=True)

    def stop(self) -> None:
        if self._status:
            self._status.stop()

    def _describe(self) -> str:
        fleet, done = self._fleet, self.samples_done
        if self._begun_at is None:
            return "waiting for the first workers"
        open_samples = sum(run.view.samples - sum(run.view.counts.values()) for run in fleet.open_runs if run.view)
        rate = done / (time.monotonic() - self._begun_at + 1e-9)
        to_go_s = self.left_s + (open_samples / rate if rate else 0)
        there = len(fleet.find_ready(ECHO)) + len(fleet.find_ready(TINY))
        return " · ".join(
            [
                f"{self._struck.total()} faults, {count_kills(fleet, self._struck)} kills",
                f"{done:,} samples in {len(fleet.runs)} runs, {open_samples:,} remaining",
                f"{there} of {len(fleet.nodes)} workers{'' if fleet.redis_is_up else ', no Redis'}",
                f"{len(fleet.takeovers.took_s)} takeovers, p99 {format_s(find_percentile(fleet.takeovers.took_s, 0.99))}",
                f"faults for {self.left_s:.0f} s more, ends in about {to_go_s / 60:.0f} min",
            ]
        )


def find_wrongs(fleet: ChaosFleet, verdict: Verdict, processes_left: int) -> list[str]:
    wrongs = [*verdict.wrongs]
    if verdict.lost or verdict.duplicated:
        wrongs.append(f"{verdict.lost} samples lost, {verdict.duplicated} duplicated")
    wrongs += [f"{run.run_id or run.spec_path.name} did not end" for run in fleet.runs if not run.ended]
    p99 = find_percentile(fleet.takeovers.took_s, 0.99)
    if p99 is not None and p99 > TAKEOVER_LIMIT_S:
        wrongs.append(f"99th percentile of takeover {p99:.1f} s: more than {TAKEOVER_LIMIT_S:.0f} s")
    if waiting := fleet.takeovers.waiting_s:
        wrongs.append(f"{len(waiting)} chunks of lost holders were never taken over")
    if processes_left:
        wrongs.append(f"{processes_left} processes left after the drain")
    return wrongs


def print_table(asked: argparse.Namespace, fleet: ChaosFleet, struck: Counter[str], verdict: Verdict, left: int) -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "obstore", "pyarrow", "pydantic"))
    limits = f"{asked.minutes:g} min of faults" + (f" or {asked.kills} kills" if asked.kills < math.inf else "")
    print(f"\nseed {asked.seed}, {limits}, {asked.workers} workers, runs of {asked.samples:,} samples")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.1f} over 15 min, Python {platform.python_version()}; {packages}\n")
    attempts, redone = count_asked(fleet.folder / "asked")
    kills = count_kills(fleet, struck)
    took, took_alone = fleet.takeovers.took_s, fleet.takeovers.took_alone_s
    rows: list[tuple[str, object]] = [
        *struck.most_common(),
        ("faults", struck.total() - struck["not permitted"]),
        ("kills", kills),
        ("producers that ended before a kill", fleet.doomed),
        ("runs", len(fleet.runs)),
        ("runs that Redis lost", fleet.ledgers_lost),
        ("samples", verdict.samples),
        *sorted(verdict.outcomes.items()),
        ("lost", verdict.lost),
        ("duplicated", verdict.duplicated),
        ("attempts", attempts),
        ("attempts redone", redone),
        ("attempts redone per kill", f"{redone / kills:.1f}" if kills else "-"),
        *describe_takeovers("takeovers", took),
        *describe_takeovers("takeovers by a restarted worker", took_alone),
        ("takeovers over 20 s", len(fleet.takeovers.slow)),
        ("chunks whose holder resumed first", fleet.takeovers.woke_first),
        ("processes left after the drain", left),
    ]
    for name, value in rows:
        print(f"{name:34}{f'{value:,}' if isinstance(value, int) else value:>12}")


def describe_takeovers(name: str, took_s: list[float]) -> list[tuple[str, object]]:
    shares = {"median": 0.5, "p99": 0.99, "max": 1.0}
    return [(name, len(took_s)), *((f"  {label}", format_s(find_percentile(took_s, share))) for label, share in shares.items())]


def count_kills(fleet: ChaosFleet, struck: Counter[str]) -> int:
    """Return the number of kills that hit a running process."""
    return sum(count for kind, count in struck.items() if kind in FAULTS and FAULTS[kind].is_kill) - fleet.doomed


def format_s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
