"""An engine whose process ends in a named way as soon as it is started, until somebody mends it."""

import faulthandler
import os
import signal
from pathlib import Path

from common.errors import EngineError
from common.spec.models import ModelProfile
from tests.support.engines.dying_engine import RecordingEngine


class CrashingEngine(RecordingEngine):
    """Ends in the way ``how`` while the file ``repaired`` is missing, or only on the GPU ``device`` if one is named.

    ``how`` is the name of a signal, which the process sends itself, or ``error`` for an ``EngineError``.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options = dict(profile.engine_options)
        self._how = options.pop("how")
        self._repaired = Path(options.pop("repaired"))
        self._device = options.pop("device", os.environ["CUDA_VISIBLE_DEVICES"])
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def start(self) -> None:
        await super().start()
        if self._repaired.exists() or os.environ["CUDA_VISIBLE_DEVICES"] != self._device:
            return
        if self._how == "error":
            raise EngineError("the accelerator fell off the bus")
        faulthandler.disable()
        os.kill(os.getpid(), signal.Signals[self._how])
