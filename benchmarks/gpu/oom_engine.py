"""The transformers engine in too little memory for its batches, and with a note of each time it finds that out."""

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
_ROOM = 2  # so many times what a batch of PROBE_BATCH takes; less than that beside the weights is fragmented too soon


class NotedLimit(BatchLimit):
    """A batch limit that appends to a file whenever it is lowered: how many did not fit, and how many may be tried next."""

    def __init__(self, most: int, notes: Path) -> None:
        super().__init__(most)
        self._notes = notes

    def shrink(self, count: int) -> None:
        super().shrink(count)
        with self._notes.open("a") as stream:
            stream.write(f"{count} {self.size}\n")


class TightHfEngine(HfEngine):
    """The ``hf`` engine with a bound on this process's GPU memory, set by what a small batch takes.

    Engine options are its own, and ``notes``, ``image_px`` and ``max_tokens`` of what it will be asked.  Without a GPU the bound
    is pretended.
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
        return Request(f"probe-{number}", (Message("user", "What does this picture show?", images=1),), (image,), settings)


def pretend_bound(model: HfModel) -> None:
    """Have a model run out of memory with more than twice ``PROBE_BATCH`` requests, on a machine without a GPU."""
    generate = model.generate

    def refuse_large(batch: Sequence[Waiting], inputs: Any) -> list[Generation]:
        if len(batch) > _ROOM * PROBE_BATCH:
            raise OutOfMemory(f"{len(batch)} requests, and memory is pretended to be out")
        return generate(batch, inputs)

    model.generate = refuse_large  # type: ignore[method-assign]  # this one model's, and for a try only
