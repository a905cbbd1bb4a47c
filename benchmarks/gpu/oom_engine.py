"""The transformers engine with too little GPU memory for its batches. It records each out-of-memory error."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from common.errors import OutOfMemory
from common.spec.models import ModelProfile, SamplingParams
from workers.engines.base import Generation, Message, Request
from workers.engines.hf.batching import BatchLimit, Waiting
from workers.engines.hf.engine import HfEngine
from workers.engines.hf.model import HfModel

PROBE_BATCH = 8
_ROOM = 2  # multiple of the memory of a batch of PROBE_BATCH; with less memory, fragmentation would cause errors too early


class NotedLimit(BatchLimit):
    """A batch limit that appends a line to a file at each reduction: the batch size that did not fit, and the new limit."""

    def __init__(self, most: int, notes: Path) -> None:
        super().__init__(most)
        self._notes = notes

    def shrink(self, count: int) -> None:
        super().shrink(count)
        with self._notes.open("a") as stream:
            stream.write(f"{count} {self.size}\n")


class TightHfEngine(HfEngine):
    """The ``hf`` engine with a limit on this process's GPU memory, which is computed from the memory of a small batch.

    In addition to the options of ``hf``, the engine has the options ``notes`` (a file), and ``image_px`` and ``max_tokens`` of
    the requests that follow. Without a GPU the limit is simulated.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        notes, self._image_px, self._max_tokens = Path(options.pop("notes")), options.pop("image_px"), options.pop("max_tokens")
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)
        self._limit = NotedLimit(options["max_batch_size"], notes)

    async def start(self) -> None:
        await super().start()
        if self._model is not None and not torch.cuda.is_available():
            pretend_bound(self._model)
            return
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        await asyncio.gather(*(self.generate(self._make_probe(number)) for number in range(PROBE_BATCH)))
        taken = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()
        bound = before + _ROOM * taken
        torch.cuda.set_per_process_memory_fraction(bound / torch.cuda.get_device_properties(0).total_memory)

    def _make_probe(self, number: int) -> Request:
        image = Image.new("RGB", (self._image_px, self._image_px), (number, 0, 0))
        settings = SamplingParams(max_tokens=self._max_tokens)
        return Request(f"probe-{number}", (Message("user", (0, "What does this picture show?")),), (image,), settings)


def pretend_bound(model: HfModel) -> None:
    """Make a model without a GPU raise an out-of-memory error for batches above twice ``PROBE_BATCH`` requests."""
    generate = model.generate

    def refuse_large(batch: Sequence[Waiting], inputs: Any) -> list[Generation]:
        if len(batch) > _ROOM * PROBE_BATCH:
            raise OutOfMemory(f"simulated: a batch of {len(batch)} requests does not fit into memory")
        return generate(batch, inputs)

    model.generate = refuse_large  # type: ignore[method-assign]  # replaced on this instance only, for the simulation
