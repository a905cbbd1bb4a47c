"""The MMaDA engine, on a fake of MMaDA's package with the names, signatures and checks of the real package."""

import asyncio
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import pytest
import torch
from transformers import AutoTokenizer

from common.errors import ConfigError, EngineError, OutOfMemory, SampleError
from common.spec.models import ModelProfile
from tests.support.engines.requests import TINY, make_request, open_engine, run
from workers.engines.base import Generation, Message
from workers.engines.mmada import MmadaEngine
from workers.engines.registry import load_engine

ENGINE = "workers.engines.mmada:MmadaEngine"
MARKERS = {"<|mmu|>": 7, "<|soi|>": 8, "<|eoi|>": 9}
MASK = 126336
IMAGE_CODES = 4
CONTEXT = 2048


class MMadaModelLM(torch.nn.Module):
    """Generate ``answer`` step by step, after the checks of the real ``mmu_generate``."""

    answer: list[int]
    asked: list[dict[str, Any]]
    fault: Exception | None
    at_work: threading.Event | None  # if set, generation runs until it is stopped
    config: SimpleNamespace

    @classmethod
    def from_pretrained(cls, weights: str, *, torch_dtype: torch.dtype, revision: str | None, trust_remote_code: bool) -> Self:
        assert Path(weights).is_dir()
        assert torch_dtype is torch.bfloat16
        assert (revision, trust_remote_code) == (None, False)
        return cls()

    def forward(self, tokens: torch.Tensor) -> None:
        assert tokens.ndim == 2
        if self.fault:
            raise self.fault

    def mmu_generate(
        self,
        idx: torch.Tensor,
        input_embeddings: None = None,
        max_new_tokens: int = 128,
        steps: int = 128,
        block_length: int = 128,
        temperature: float = 0.0,
    ) -> torch.Tensor:
        self.asked.append({"idx": idx, "room": max_new_tokens, "steps": steps, "block": block_length, "heat": temperature})
        assert input_embeddings is None
        assert max_new_tokens % block_length == 0
        assert steps % (max_new_tokens // block_length) == 0
        if self.at_work:
            self.at_work.set()
        for _ in range(10**9 if self.at_work else steps):
            self(idx)
        noise = int(torch.randint(100, 110, ())) if temperature else None
        answer = [noise, *self.answer] if noise else self.answer
        row = (answer + [MASK] * max_new_tokens)[:max_new_tokens]
        return torch.cat([idx, torch.tensor([row])], dim=1)


class MAGVITv2(torch.nn.Module):
    """Encode an image as its number of pixels."""

    @classmethod
    def from_pretrained(cls, weights: str) -> Self:
        assert weights == "showlab/magvitv2"
        return cls()

    def get_code(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.full((1, IMAGE_CODES), pixel_values.shape[-1])


class UniversalPrompting:
    def __init__(self, text_tokenizer: Any, *, use_reserved_token: bool) -> None:
        assert use_reserved_token
        assert text_tokenizer.chat_template
        self.sptids_dict = {marker: torch.tensor([number]) for marker, number in MARKERS.items()}


def image_transform(image: Any, resolution: int = 256, normalize: bool = True) -> torch.Tensor:
    return torch.zeros(3, resolution, resolution)


def image_transform_squash(image: Any, resolution: int = 256, normalize: bool = True) -> torch.Tensor:
    return torch.zeros(3, resolution, resolution)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> type[MMadaModelLM]:
    """Install the fake in place of the package, and return the class of its model so that tests control it."""
    parts: dict[str, dict[str, Any]] = {
        "models": {"MMadaModelLM": MMadaModelLM, "MAGVITv2": MAGVITv2},
        "training": {},
        "training.prompting_utils": {"UniversalPrompting": UniversalPrompting},
        "training.utils": {"image_transform": image_transform, "image_transform_squash": image_transform_squash},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    at_start: dict[str, Any] = {
        "answer": [],
        "asked": [],
        "fault": None,
        "at_work": None,
        "config": SimpleNamespace(max_sequence_length=CONTEXT),
    }
    for name, start in at_start.items():
        monkeypatch.setattr(MMadaModelLM, name, start, raising=False)
    return MMadaModelLM


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    loader: Any = AutoTokenizer
    return loader.from_pretrained(TINY)


def dictate(model: type[MMadaModelLM], tokenizer: Any, text: str, *, ends: bool = True) -> None:
    """Make the model answer ``text``. With ``ends``, add the end token and the tokens that a diffusion model leaves after it."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    model.answer = [*tokens, tokenizer.eos_token_id, *tokens] if ends else tokens * 100


def ask(*requests: Any, **options: Any) -> list[Generation]:
    async def ask_sequentially() -> list[Generation]:
        async with open_engine(ENGINE, TINY, **options) as engine:
            return [await engine.generate(request) for request in requests]

    generations: list[Generation] = run(ask_sequentially())
    return generations


def test_answer_ends_at_end_token(model: type[MMadaModelLM], tokenizer: Any) -> None:
    """The engine requests whole blocks."""
    dictate(model, tokenizer, "three")
    [generation] = ask(make_request(max_tokens=70), block_length=64, tokens_per_step=2)
    [asked] = model.asked
    assert (generation.text.strip(), generation.finish_reason) == ("three", "stop")
    assert (asked["room"], asked["steps"], asked["block"]) == (128, 64, 64)
    assert generation.prompt_tokens == asked["idx"].shape[1]
    assert generation.output_tokens == len(tokenizer("three", add_special_tokens=False)["input_ids"])


def test_answer_of_max_tokens_is_truncated(model: type[MMadaModelLM], tokenizer: Any) -> None:
    dictate(model, tokenizer, "red circle", ends=False)
    [generation] = ask(make_request(max_tokens=5))
    assert (generation.finish_reason, generation.output_tokens) == ("length", 5)


def test_stop_string_ends_the_answer(model: type[MMadaModelLM], tokenizer: Any) -> None:
    dictate(model, tokenizer, "red circle", ends=False)
    [generation] = ask(make_request(max_tokens=9, stop=("circle",)))
    assert (generation.text.strip(), generation.finish_reason) == ("red", "stop")


def test_image_precedes_conversation_between_its_markers(model: type[MMadaModelLM], tokenizer: Any) -> None:
    ask(make_request(text="How many?"), make_request(text="How many?", images=0), resolution=64)
    with_image, without = (asked["idx"][0].tolist() for asked in model.asked)
    assert with_image[:2] == [MARKERS["<|mmu|>"], MARKERS["<|soi|>"]]
    assert with_image[2 : 2 + IMAGE_CODES] == [64 + len(tokenizer)] * IMAGE_CODES
    assert with_image[2 + IMAGE_CODES :] == [MARKERS["<|eoi|>"], *without]
    assert "How many?" in tokenizer.decode(without)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_image_is_squashed_or_cropped_by_option(model: type[MMadaModelLM], monkeypatch: pytest.MonkeyPatch, fit: str) -> None:
    other = "image_transform" if fit == "squash" else "image_transform_squash"
    monkeypatch.delattr(sys.modules["training.utils"], other)
    assert len(ask(make_request(), fit=fit)) == 1


def test_answer_is_determined_by_the_seed(model: type[MMadaModelLM], tokenizer: Any) -> None:
    dictate(model, tokenizer, "three")
    requests = [make_request(temperature=0.8, seed=seed) for seed in (1, 2, 3, 4, 1)]
    texts = [generation.text for generation in ask(*requests)]
    assert texts[0] == texts[4]
    assert len(set(texts)) > 1


@pytest.mark.parametrize(
    ("request_fields", "message"),
    [({"images": 2}, "takes at most one image, but the request has 2"), ({"top_p": 0.9}, "does not support top_p 0.9")],
)
def test_unsupported_request_is_a_sample_error(model: type[MMadaModelLM], request_fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        ask(make_request(**request_fields))


@pytest.mark.parametrize(
    "messages",
    [
        (Message("user", ("What is ", 0, "?")),),
        (Message("user", ("Hello.",)), Message("assistant", ("Hi.",)), Message("user", (0, "What is it?"))),
    ],
)
def test_image_after_a_text_is_a_sample_error(model: type[MMadaModelLM], messages: tuple[Message, ...]) -> None:
    with pytest.raises(SampleError, match="takes its image before all questions, but the request has it after a text"):
        ask(replace(make_request(), messages=messages))
    assert model.asked == []


def test_system_text_may_precede_the_image(model: type[MMadaModelLM], tokenizer: Any) -> None:
    ask(replace(make_request(), messages=(Message("system", ("Be brief.",)), Message("user", (0, "What is it?")))))
    assert "Be brief." in tokenizer.decode(model.asked[0]["idx"][0].tolist()[4:])


def test_engine_survives_fault_of_one_request(model: type[MMadaModelLM], tokenizer: Any) -> None:
    dictate(model, tokenizer, "three")

    async def ask_with_faults() -> str:
        async with open_engine(ENGINE, TINY) as engine:
            for fault, expected in ((torch.OutOfMemoryError("full"), OutOfMemory), (AssertionError("too long"), SampleError)):
                model.fault = fault
                with pytest.raises(expected):
                    await engine.generate(make_request())
            model.fault = None
            return (await engine.generate(make_request())).text.strip()

    assert run(ask_with_faults()) == "three"


def test_device_failure_ends_the_engine(model: type[MMadaModelLM]) -> None:
    model.fault = RuntimeError("CUDA error: an illegal memory access was encountered")

    async def ask_twice() -> None:
        async with open_engine(ENGINE, TINY) as engine:
            for _ in range(2):
                with pytest.raises(EngineError, match="illegal memory access"):
                    await engine.generate(make_request())
        assert len(model.asked) == 1

    run(ask_twice())


def test_stop_fails_running_and_waiting_requests(model: type[MMadaModelLM]) -> None:
    model.at_work = at_work = threading.Event()

    async def ask_and_stop() -> list[Any]:
        async with open_engine(ENGINE, TINY) as engine:
            tasks = [asyncio.ensure_future(engine.generate(make_request(number))) for number in range(5)]
            await asyncio.to_thread(at_work.wait, 30)
        with pytest.raises(EngineError, match="stopped"):
            await engine.generate(make_request())
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in run(ask_and_stop())] == [EngineError] * 5
    assert len(model.asked) == 1


def test_next_request_runs_after_a_cancelled_one(model: type[MMadaModelLM], tokenizer: Any) -> None:
    dictate(model, tokenizer, "three")
    model.at_work = at_work = threading.Event()

    async def cancel_and_ask() -> str:
        async with open_engine(ENGINE, TINY) as engine:
            first = asyncio.ensure_future(engine.generate(make_request()))
            await asyncio.to_thread(at_work.wait, 30)
            model.at_work = None
            first.cancel()
            return (await engine.generate(make_request(1))).text.strip()

    assert run(cancel_and_ask()) == "three"


# Context


@pytest.mark.parametrize("images", [0, 1])
@pytest.mark.parametrize(("beyond", "code"), [(-1, None), (0, "too_long"), (1, "too_long"), (1000 * CONTEXT, "too_long")])
def test_prompt_that_fills_context_is_refused(
    model: type[MMadaModelLM], tokenizer: Any, images: int, beyond: int, code: str | None
) -> None:
    dictate(model, tokenizer, "red circle", ends=False)
    [short] = ask(make_request(text="Why", images=images))
    text = "Why" + " the" * (CONTEXT + beyond - (short.prompt_tokens or 0))
    model.asked.clear()
    if code is None:
        [generation] = ask(make_request(text=text, images=images, max_tokens=64))
        assert (generation.prompt_tokens, generation.output_tokens, generation.finish_reason) == (CONTEXT - 1, 1, "length")
        assert (model.asked[0]["room"], model.asked[0]["steps"], model.asked[0]["block"]) == (1, 1, 1)
        return
    with pytest.raises(SampleError, match=rf"the prompt has .* tokens, but the context of the model has {CONTEXT}; ") as caught:
        ask(make_request(text=text, images=images))
    assert caught.value.code == code
    assert model.asked == []


def test_answer_is_limited_to_blocks_that_fit(model: type[MMadaModelLM], tokenizer: Any) -> None:
    dictate(model, tokenizer, "red circle", ends=False)
    [short] = ask(make_request(images=0))
    room = 4 * 64 + 5
    [generation] = ask(make_request(images=0, max_tokens=1000), max_model_len=(short.prompt_tokens or 0) + room)
    assert (generation.output_tokens, generation.finish_reason) == (256, "length")
    assert (model.asked[1]["room"], model.asked[1]["steps"], model.asked[1]["block"]) == (256, 128, 64)


# Loading


def test_unstarted_engine_rejects_requests_and_stops() -> None:
    async def ask_and_stop() -> None:
        engine = MmadaEngine(ModelProfile(name="mmada-8b", engine=ENGINE), TINY)
        with pytest.raises(EngineError, match="not running"):
            await engine.generate(make_request())
        await engine.stop()

    run(ask_and_stop())


def test_missing_package_error_gives_install_steps() -> None:
    with pytest.raises(ConfigError) as caught:
        start_on(Path(TINY))
    message = str(caught.value)
    assert "profile tried: engine: MMaDA's 'models:MAGVITv2': cannot import 'models'" in message
    assert "git clone https://github.com/Gen-Verse/MMaDA && pip install -r MMaDA/requirements.txt" in message
    assert 'export PYTHONPATH="$PWD/MMaDA"' in message


def test_unrelated_package_of_same_name_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models", ModuleType("models"))
    with pytest.raises(ConfigError, match=r"'MAGVITv2' does not exist in 'models'.*git clone"):
        start_on(Path(TINY))


def test_unsuitable_weights_are_a_config_error(model: type[MMadaModelLM], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        start_on(tmp_path)


def test_missing_chat_template_is_a_config_error(model: type[MMadaModelLM], tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(Path(TINY) / name, tmp_path)
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        start_on(tmp_path)


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        (RuntimeError("no kernel image"), EngineError, "this machine cannot run the model: RuntimeError: no kernel image"),
        (
            AttributeError("all_tied_weights_keys"),
            ConfigError,
            "requires transformers 4.46 and fails with .* all_tied_weights_keys",
        ),
    ],
)
def test_loading_fault_has_its_error_class(
    model: type[MMadaModelLM], monkeypatch: pytest.MonkeyPatch, fault: Exception, expected: type[Exception], message: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise fault

    monkeypatch.setattr(model, "from_pretrained", fail)
    with pytest.raises(expected, match=message):
        start_on(Path(TINY))


def start_on(weights: Path) -> None:
    async def start() -> None:
        async with open_engine(ENGINE, str(weights)):
            pass

    run(start())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 4}, "engine_options: block_size: unknown field"),
        ({"block_length": 64, "tokens_per_step": 3}, "block_length 64 is not a multiple of tokens_per_step 3"),
        ({"fit": "stretch"}, "engine_options.*fit: found 'stretch'"),
    ],
)
def test_invalid_option_is_explained(options: dict[str, Any], message: str) -> None:
    profile = ModelProfile(name="tried", engine=ENGINE, engine_options=options)
    with pytest.raises(ConfigError, match=message):
        load_engine(profile, "")
