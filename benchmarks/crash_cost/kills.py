"""Part f: random kills of workers, launchers and engine children while samples run."""

import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.crash_cost.fleet import CostFleet, Ended, Speed, start_fleet
from benchmarks.crash_cost.measures import Line, at_least, at_most, check_outcomes

_SPEED = Speed(load_s=1.0, latency_s=5.0)
_RUN_SAMPLES, _CHUNK_SAMPLES = 8192, 16  # four times the samples in flight of eight workers
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def measure_kills(folder: Path, kills: int, seed: int) -> list[Line]:
    """Send ``kills`` signals to processes of workers that hold chunks. Enqueue runs until then, and wait for the last run."""
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
                done += done < kills and kill_one(fleet, status, run_id, chance)
                time.sleep(chance.uniform(0.2, 1.5))
            runs.append(fleet.finish(run_id, started_s, deaths))
            print(f"  f: {done} kills, {len(runs)} runs, {runs[-1].deaths} exits, {dict(runs[-1].statuses)}", flush=True)
    return [
        at_least("f", "kills of processes that held samples", done, kills),
        at_most("f", "pauses", pauses, 0),
        at_most("f", "samples failed", sum(len(run.failed) for run in runs), 0),
        *check_outcomes("f", runs, 0)[1:],
    ]


def kill_one(fleet: CostFleet, status: dict[str, Any], run_id: str, chance: random.Random) -> bool:
    """Send a signal to a random process that the run's samples need. Return whether such a process was found."""
    holding = {worker["pid"] for worker in status["workers"] if any(run == run_id for run, _ in worker["holds"])}
    workers, children, launchers = [], [], []
    for launcher in fleet.launchers:
        with suppress(psutil.Error):
            process = psutil.Process(launcher.pid)
            held = [worker for worker in process.children() if worker.pid in holding]
            launchers += [process] if held else []
            workers += held
            children += [child for worker in held for child in worker.children()]
    (victims,) = chance.choices([workers, children, launchers], weights=[6, 6, 1])
    with suppress(psutil.Error):
        if victims:
            chance.choice(victims).send_signal(chance.choice(_SIGNALS))
            return True
    return False
