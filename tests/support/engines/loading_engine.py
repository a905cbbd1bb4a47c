"""An echo engine that records when it starts and ends loading, and on which device."""

import os
from pathlib import Path

from common.spec.models import ModelProfile
from workers.engines.echo import EchoEngine


class LoadingEngine(EchoEngine):
    """An engine that writes a line to the file ``notes`` before and after it loads for ``load_s``."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        self._notes = Path(options.pop("notes"))
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        self._note("begins")
        await super().start()
        self._note("ends")

    def _note(self, what: str) -> None:
        with self._notes.open("a") as stream:
            stream.write(f"{os.environ['FLEET_WORKER_DEVICE']} {what}\n")
