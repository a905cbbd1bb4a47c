"""Part f: random kills of workers, launchers and engine children while samples run."""

import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.crash_cost.fleet import Ended, Speed, start_fleet
from benchmarks.crash_cost.measures import Line, at_least, at_most, check_outcomes

_SPEED = Speed(load_s=1.0, latency_s=3.0)
_RUN_SAMPLES, _CHUNK_SAMPLES = 16_384, 16  # eight times the samples in flight of eight workers
_LIFE_S = 10.0  # the mean time between two signals to one worker: a few latencies, so that samples can finish
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def measure_kills(folder: Path, kills: int, seed: int) -> list[Line]:
    """Send ``kills`` signals to random processes of the fleet while runs are active, and wait for the last run."""
    chance, done, pauses = random.Random(seed), 0, 0
    runs: list[Ended] = []
    with start_fleet(folder, _SPEED, launchers=4) as fleet:
        while done < kills:
            deaths, started_s = fleet.count_deaths(), time.monotonic()
            run_id = fleet.enqueue(f"slow-{len(runs)}", _RUN_SAMPLES, {}, chunk_samples=_CHUNK_SAMPLES)
            while (status := fleet.status(run_id))["state"] in ("running", "paused"):
                if status["state"] == "paused":
                    pauses += 1
                    print(f"  f: paused after {done} kills: {status['reason']}", flush=True)
                    fleet.resume(run_id)
                fleet.replace_launchers()
                workers = [worker for launcher in fleet.launchers for worker in list_children(launcher.pid)]
                done += done < kills and kill_one([launcher.pid for launcher in fleet.launchers], workers, chance)
                time.sleep(chance.uniform(0.5, 1.5) * _LIFE_S / max(1, len(workers)))
            runs.append(fleet.finish(run_id, started_s, deaths))
            print(f"  f: {done} kills, {len(runs)} runs, {runs[-1].deaths} exits, {dict(runs[-1].statuses)}", flush=True)
    return [
        at_least("f", "signals to processes of the fleet", done, kills),
        at_most("f", "pauses", pauses, 0),
        at_most("f", "samples failed", sum(len(run.failed) for run in runs), 0),
        *check_outcomes("f", runs, 0)[1:],
    ]


def list_children(pid: int) -> list[psutil.Process]:
    """Return the direct child processes of a process, or an empty list if it has exited."""
    with suppress(psutil.Error):
        return psutil.Process(pid).children()
    return []


def kill_one(launchers: Sequence[int], workers: Sequence[psutil.Process], chance: random.Random) -> bool:
    """Send a signal to a random worker, engine child or launcher. Return whether such a process was found."""
    children = [child for worker in workers for child in list_children(worker.pid)]
    (victims,) = chance.choices([workers, children, [psutil.Process(pid) for pid in launchers]], weights=[6, 6, 1])
    with suppress(psutil.Error):
        if victims:
            chance.choice(victims).send_signal(chance.choice(_SIGNALS))
            return True
    return False
