"""Run vLLM without the fleet on the samples of a planned run, in the plan's order: ``AsyncLLM``, or ``LLM.chat`` in batches.

    python -m benchmarks.gpu.direct --how async --store URL --out FILE [--limit N] RUN [RUN ...]

This module is a part of ``benchmarks.gpu.efficiency``. It runs in a separate process, so that the GPU memory is free when it
exits. It uses the engine options, the model folder and the lengths of the run. For each run it appends a pass to FILE. The
time includes decoding the pictures and excludes loading the model.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.renderers import ChatParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.gpu.passes import Pass, make_pass
from benchmarks.gpu.questions import SAMPLES_IN_FLIGHT, dictate_length
from benchmarks.gpu.watch import CpuWatch
from common.records import Sample
from common.spec.models import RunSpec
from common.storage.plan_index import read_chunk, read_index
from common.storage.run_record import read_run
from common.storage.store import Store, open_store

_DECODERS = 4  # threads; a worker of the fleet has the same number
_BATCH = 64

Answered = tuple[float, int, int]


async def drive_async(folder: str, options: dict[str, Any], runs: Iterable[tuple[RunSpec, list[Sample]]], out: Path) -> None:
    """Send the samples to ``AsyncLLM`` with a fixed number of samples in flight."""
    llm = AsyncLLM.from_vllm_config(AsyncEngineArgs(model=folder, disable_log_stats=True, **options).create_engine_config())
    for spec, samples in runs:
        cpu, begun_s = CpuWatch(os.getpid()), time.time()
        answered = await _ask_all(llm, samples, spec.generation.max_tokens)
        _append(out, make_pass("async", spec.datasets[0].name, begun_s, time.time(), answered, cpu.describe()))
    llm.shutdown()


async def _ask_all(llm: AsyncLLM, samples: Sequence[Sample], max_tokens: int) -> list[Answered]:
    loop = asyncio.get_running_loop()
    template = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
    in_flight = asyncio.Semaphore(SAMPLES_IN_FLIGHT)

    async def ask(sample: Sample) -> Answered:
        async with in_flight:
            image = await loop.run_in_executor(pool, read_image, sample)
            _, (prompt,) = await llm.renderer.render_chat_async([to_conversation(sample, image)], template)
            async for output in llm.generate(prompt, make_params(sample, max_tokens), sample.sample_id):
                answer = output
            return _describe(answer)

    with ThreadPoolExecutor(_DECODERS) as pool:
        return list(await asyncio.gather(*(ask(sample) for sample in samples)))


def drive_batches(folder: str, options: dict[str, Any], runs: Iterable[tuple[RunSpec, list[Sample]]], out: Path) -> None:
    """Send the samples to ``LLM.chat`` in batches. Each batch waits for its slowest sample."""
    llm = LLM(model=folder, **options)
    for spec, samples in runs:
        cpu, begun_s = CpuWatch(os.getpid()), time.time()
        answered: list[Answered] = []
        with ThreadPoolExecutor(_DECODERS) as pool:
            for at in range(0, len(samples), _BATCH):
                batch = samples[at : at + _BATCH]
                conversations = [to_conversation(*pair) for pair in zip(batch, pool.map(read_image, batch), strict=True)]
                params = [make_params(sample, spec.generation.max_tokens) for sample in batch]
                answered += map(_describe, llm.chat(conversations, params, use_tqdm=False))
        _append(out, make_pass("batches", spec.datasets[0].name, begun_s, time.time(), answered, cpu.describe()))


def read_image(sample: Sample) -> Image.Image:
    with Image.open(sample.media[0].uri or "") as image:
        return image.convert("RGB")


def to_conversation(sample: Sample, image: Image.Image) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_pil", "image_pil": image}, {"type": "text", "text": sample.question}]}]


def make_params(sample: Sample, max_tokens: int) -> SamplingParams:
    length = dictate_length(sample.sample_id, max_tokens)
    return SamplingParams(max_tokens=length, ignore_eos=True, temperature=0.0, output_kind=RequestOutputKind.FINAL_ONLY)


def _describe(answer: Any) -> Answered:
    return time.time(), len(answer.prompt_token_ids), len(answer.outputs[0].token_ids)


def read_samples(store: Store, run_id: str, limit: int) -> tuple[RunSpec, list[Sample]]:
    """Return the spec of a run and its first ``limit`` samples, in the plan's order."""
    samples = [sample for chunk in read_index(store, run_id) for sample in read_chunk(store, chunk)]
    return read_run(store, run_id)[0], samples[:limit]


def _append(out: Path, one: Pass) -> None:
    with out.open("a") as stream:
        stream.write(json.dumps(asdict(one)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--how", choices=("async", "batches"), required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=10**9)
    parser.add_argument("runs", nargs="+")
    asked = parser.parse_args()
    store = open_store(asked.store)
    runs = [read_samples(store, run_id, asked.limit) for run_id in asked.runs]
    profile = runs[0][0].model
    if asked.how == "async":
        asyncio.run(drive_async(profile.weights or "", profile.engine_options, runs, asked.out))
    else:
        drive_batches(profile.weights or "", profile.engine_options, runs, asked.out)


if __name__ == "__main__":
    main()
