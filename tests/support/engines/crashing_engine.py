"""An engine whose process crashes in a given way at its start, until a test repairs it."""

import faulthandler
import os
import signal
from pathlib import Path

from common.errors import EngineError
from common.spec.models import ModelProfile
from tests.support.engines.dying_engine import RecordingEngine, read_options
from workers.engines.load_faults import explain_load_failure


class CrashingEngine(RecordingEngine):
    """An engine that crashes in the way ``how`` while the file ``repaired`` is missing, on GPU ``device`` or on every GPU.

    ``how`` is the name of a signal that the process sends itself, ``error`` for an ``EngineError``, or
    ``download`` for weights that cannot be downloaded now.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = read_options(profile)
        self._how = options.pop("how")
        self._repaired = Path(options.pop("repaired"))
        self._device = options.pop("device", os.environ["CUDA_VISIBLE_DEVICES"])
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        await super().start()
        if self._repaired.exists() or os.environ["CUDA_VISIBLE_DEVICES"] != self._device:
            return
        if self._how == "error":
            raise EngineError("the GPU does not respond")
        if self._how == "download":
            raise explain_load_failure(ConnectionRefusedError("Connection refused"), "weights org/model: cannot be loaded")
        faulthandler.disable()
        os.kill(os.getpid(), signal.Signals[self._how])
