"""vLLM and transformers give the same answers to the requests of the demo, with the same weights."""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from common.prompts.messages import render_messages
from common.records import Sample
from common.spec.files import read_specs
from producer.datasets import read_dataset
from tests.support.engines.requests import TINY, ask_all, open_engine, run
from tests.support.engines.vllm_cpu.process import LOAD_S, VllmHost
from tests.support.fleet import ROOT
from tests.support.media.media import load_image
from workers.adapters import load_adapter
from workers.engines.base import Engine, Generation, Request
from workers.execution.requests import place_images
from workers.media.files import MediaAccess

SAMPLES_PER_DATASET = 100  # the demo has two datasets
LEAST_SAME = 0.95

pytestmark = pytest.mark.timeout(2 * LOAD_S)


def make_demo_requests() -> list[Request]:
    """Return requests for ``SAMPLES_PER_DATASET`` samples of each dataset, with the demo's adapter and settings.

    The samples are chosen with a fixed seed.
    """
    (spec,) = read_specs(ROOT / "examples" / "demo.yaml")
    adapter = load_adapter(spec.model.adapter)
    access = MediaAccess((str(ROOT),), urls=False, url_timeout_s=1)

    def make(sample: Sample) -> Request:
        rendered = render_messages(sample, spec.prompt)
        messages, images, _ = place_images(rendered.messages, tuple((load_image(media, access),) for media in rendered.media))
        prompt = adapter.to_prompt(sample, messages)
        name = f"{sample.dataset}:{sample.sample_id}"
        return Request(name, prompt.messages, images, spec.generation, 1, prompt.template_options)

    chosen = [random.Random("same").sample(list(read_dataset(source)), SAMPLES_PER_DATASET) for source in spec.datasets]
    return [make(sample) for samples in chosen for sample in samples]


def answer(requests: list[Request], opening: Callable[[], AbstractAsyncContextManager[Engine]]) -> list[Generation]:
    async def ask() -> list[Generation]:
        async with opening() as engine:
            return await ask_all(engine, requests)

    answers: list[Generation] = run(ask())
    return answers


def test_vllm_and_transformers_give_the_same_answers(vllm_host: VllmHost) -> None:
    requests = make_demo_requests()
    assert len(requests) == 2 * SAMPLES_PER_DATASET
    ours = answer(requests, lambda: open_engine("hf", TINY, dtype="float32", max_batch_size=32))
    theirs = answer(requests, vllm_host.open_shared)

    assert [one.prompt_tokens for one in theirs] == [one.prompt_tokens for one in ours], "the prompts are not the same"
    different = {
        request.request_id: (one.text, other.text)
        for request, one, other in zip(requests, ours, theirs, strict=True)
        if (one.text, one.finish_reason) != (other.text, other.finish_reason)
    }
    assert len(different) <= (1 - LEAST_SAME) * len(requests), different
