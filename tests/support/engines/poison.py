"""An engine that a poison sample crashes: with an ``EngineError``, by an exit of the process, or by never answering."""

import asyncio
import os
from typing import Any, Literal

from common.deaths import DeathCause
from common.errors import EngineError
from common.spec.models import ModelProfile
from tests.support.engines.dying_engine import RecordingEngine
from tests.support.fleet import Fleet
from tests.support.soundness import assert_run_is_sound
from workers.engines.base import Generation, Request
from workers.engines.echo import EXIT_CODE


class PoisonedEngine(RecordingEngine):
    """An engine that fails in the way ``how`` at every question with the word poison."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        options: dict[str, Any] = dict(profile.engine_options)
        self._how: Literal["raises", "exits", "hangs"] = options.pop("how")
        self.cause = DeathCause.CRASH
        super().__init__(profile.model_copy(update={"engine_options": options}), weights)

    async def generate(self, request: Request) -> Generation:
        generation = await super().generate(request)
        if "poison" not in request.messages[-1].text:
            return generation
        if self._how == "exits":
            os._exit(EXIT_CODE)
        if self._how == "hangs":
            await asyncio.get_running_loop().create_future()
        raise EngineError("the GPU does not respond", cause=self.cause)


def write_poisoned_profile(fleet: Fleet, how: str) -> None:
    options = {"how": how, "asked": str(fleet.folder / "asked")}
    fleet.write_profile("poisoned", engine="tests.support.engines.poison:PoisonedEngine", engine_options=options)


def assert_only_poison_failed(fleet: Fleet, run_id: str, poisons: set[str]) -> None:
    """Assert that the run completed with correct results, and that exactly the samples with these indexes failed.

    Their error code must be ``engine_crashed``.
    """
    outcomes = {str(outcome.index): outcome for outcome in assert_run_is_sound(fleet, run_id)}
    assert {index for index, outcome in outcomes.items() if outcome.status != "ok"} == poisons
    for index in poisons:
        assert (outcomes[index].status, outcomes[index].error_code) == ("failed", "engine_crashed")
        assert "died 2 times while it ran this sample alone" in (outcomes[index].error_message or "")
        assert outcomes[index].response is None
