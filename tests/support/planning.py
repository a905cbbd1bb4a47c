"""Specs, samples, plans and parts without files or workers, for tests of the producer."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from common.broker.queues import queue_name
from common.prompts.messages import digest_request, render_messages
from common.records import Chunk, Outcome, Plan, Sample, Status
from common.spec.models import Chunks, DatasetSource, ModelProfile, RunSpec, SamplingParams, Shuffle, Validation
from common.spec.prompts import PromptSpec
from common.storage.keys import part_key
from common.storage.parts import encode_part
from common.storage.plan_index import ChunkIndex, read_chunk, read_index
from common.storage.store import Store
from producer.planning.long_lines import keep_line, read_line
from producer.planning.plan import plan_run
from producer.planning.shuffle import Counts, Spread, shuffle_samples
from producer.planning.twins import TwinFile, encode_line, open_twin_file
from tests.support.fleet import Fleet
from tests.support.waiting import wait_until
from tests.support.workers import open_worker
from workers.execution.chunk import run_chunk


def make_spec(*datasets: str, max_samples: int = 16, seed: int = 0, model: str = "echo") -> RunSpec:
    return RunSpec(
        model=ModelProfile(name=model, engine="echo"),
        datasets=tuple(DatasetSource(path=f"{name}.jsonl", name=name, digest="0") for name in datasets or ("rows",)),
        generation=SamplingParams(),
        validation=Validation(),
        shuffle=Shuffle(seed=seed),
        chunks=Chunks(max_samples=max_samples),
    )


def make_sample(number: int, *, dataset: str = "rows", group: str = "", **fields: Any) -> Sample:
    """Return a sample whose question contains its number, by default with the digest of its request."""
    asked = {"sample_id": f"{dataset}-{number:06d}", "question": f"{dataset} question {number}?", "target": ("ok",), **fields}
    sample = Sample(dataset=dataset, index=number, group=group, **asked)
    if sample.fault or "request_digest" in fields:
        return sample
    return sample.model_copy(update={"request_digest": digest_request(render_messages(sample, PromptSpec()))})


def make_samples(count: int, *, dataset: str = "rows") -> list[Sample]:
    return [make_sample(number, dataset=dataset) for number in range(count)]


def plan_samples(store: Store, samples: Iterable[Sample], spec: RunSpec) -> tuple[Plan, ChunkIndex]:
    plan = plan_run(spec, samples, store)
    return plan, read_index(store, plan.run_id)


def shuffle(samples: Iterable[Sample], counts: Counts, *, seed: int, scratch: Path) -> Iterator[list[Spread]]:
    """Yield the groups of shuffled samples. The lines contain the twins, as in plans of earlier versions."""
    with open_twin_file(scratch) as twins:
        for group in shuffle_samples(samples, counts, seed=seed, scratch=scratch, twins=twins):
            yield [_add_twins(entry, twins, scratch / "long") for entry in group]


def _add_twins(entry: Spread, twins: TwinFile, long: Path) -> Spread:
    lines = b"".join(map(twins.read, entry.twins)).splitlines()
    if not lines:
        return entry
    sample = json.loads(read_line(entry.line)) | {"twins": [json.loads(line) for line in lines]}
    return entry._replace(line=keep_line(encode_line(sample), long))


def make_outcome(sample: Sample, status: Status = "ok") -> Outcome:
    return Outcome(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        index=sample.index,
        model="echo",
        status=status,
        prediction=None if status == "failed" else "ok",
        error_code="bad_row" if status == "failed" else None,
        target=sample.target,
        output_tokens=3,
        metadata=sample.metadata,
    )


def put_part(store: Store, chunk: Chunk, *, statuses: Sequence[Status] = ("ok",)) -> list[Outcome]:
    """Write a chunk's part as a worker does, cycling through ``statuses``, without a commit to the ledger."""
    samples = read_chunk(store, chunk)
    outcomes = [make_outcome(sample, statuses[number % len(statuses)]) for number, sample in enumerate(samples)]
    store.put_new(part_key(chunk.run_id, chunk.wave, chunk.number), encode_part(chunk.run_id, chunk.number, outcomes))
    return outcomes


def run_chunks(fleet: Fleet, model: str, run_id: str, numbers: Iterable[int] | None = None) -> None:
    """Run these chunks, or all chunks, with the worker's code in the test's process."""
    with open_worker(fleet, model) as worker:
        for number in range(len(read_index(fleet.store, run_id))) if numbers is None else numbers:
            run_chunk(worker, run_id, number)
        wait_until(lambda: not worker.takeovers.running, "the end of the chunks that the worker took over")


def read_rung(client: redis.Redis, model: str) -> list[int]:
    """Return the chunks of the messages in a model's queue, in the order of delivery."""
    messages: Any = client.lrange(queue_name(model), 0, -1)
    return [json.loads(base64.b64decode(json.loads(message)["body"]))[0][1] for message in reversed(messages)]
