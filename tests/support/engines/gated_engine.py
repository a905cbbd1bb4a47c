"""The transformers engine behind a gate, so that a test can interrupt a run of the tiny model at a known point."""

import asyncio
from pathlib import Path
from typing import Any

from common.spec.models import ModelProfile
from workers.engines.base import Generation, Request
from workers.engines.hf.engine import HfEngine

_POLL_S = 0.02


class GatedEngine(HfEngine):
    """An engine that answers its first ``answers`` requests. The others wait until the file ``gate`` exists."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options: dict[str, Any] = dict(profile.engine_options)
        self._gate = Path(options.pop("gate"))
        self._answers: int = options.pop("answers")
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def generate(self, request: Request) -> Generation:
        self._answers -= 1
        while self._answers < 0 and not self._gate.exists():
            await asyncio.sleep(_POLL_S)
        return await super().generate(request)
