"""An echo engine that leaks secrets: in its log, in a traceback, and in a sample's error."""

import logging
import os
import sys

import structlog

from common.errors import SampleError
from workers.engines.base import Generation, Request
from workers.engines.echo import EchoEngine

SIGNED = "https://bucket.example.org/image.png?X-Amz-Credential=AKIAABCDEFGHIJKLMNOP&X-Amz-Signature=51gn3d-51gn3d"


class LeakyEngine(EchoEngine):
    """An engine that fails for every question with the word ``leak``."""

    async def start(self) -> None:
        structlog.get_logger().info("loading", api_key=os.environ["OPENAI_API_KEY"], environment=dict(os.environ), url=SIGNED)
        logging.getLogger("some.library").debug("headers: %s", {"Authorization": f"Bearer {os.environ['HF_TOKEN']}"})
        print(f"not through any log: {len(os.environ['HF_TOKEN'])} characters", file=sys.stderr)  # noqa: T201  # libraries do this
        await super().start()

    async def generate(self, request: Request) -> Generation:
        if "leak" in request.messages[-1].text:
            try:
                raise ValueError(f"401 for key {os.environ['OPENAI_API_KEY']} of {os.environ['FLEET_REDIS_URL']}")
            except ValueError as error:
                logging.getLogger("some.library").exception("request failed")
                raise SampleError("engine_rejected", f"cannot get {SIGNED}: {error}") from error
        return await super().generate(request)
