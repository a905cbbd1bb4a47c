"""The transformers engine on the tiny model: batches, memory, faults, and stop strings."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from common.errors import ConfigError, EngineError, OutOfMemory, SampleError
from tests.support.engines.requests import TINY, ask_all, make_request, open_engine, run
from workers.engines.base import Engine, Generation, Message, Request
from workers.engines.hf.model import HfModel

Open = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture
def open_hf() -> Open:
    return lambda **options: open_engine("hf", TINY, **{"dtype": "float32", **options})


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that records the size of each batch that the model runs."""
    return watch_model(monkeypatch, lambda _size, _tokens: None)


def watch_model(monkeypatch: pytest.MonkeyPatch, check: Callable[[int, Any], Exception | None]) -> list[int]:
    """Wrap the model: record the size of each batch, and raise the error that ``check(size, input_ids)`` returns."""
    model: Any = transformers.LlavaForConditionalGeneration
    generate, seen = model.generate, []

    def watched(self: Any, **inputs: Any) -> Any:
        seen.append(len(inputs["input_ids"]))
        if fault := check(seen[-1], inputs["input_ids"]):
            raise fault
        return generate(self, **inputs)

    monkeypatch.setattr(model, "generate", watched)
    return seen


def out_of_memory_above(most: int) -> Callable[[int, Any], Exception | None]:
    return lambda size, _tokens: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB") if size > most else None


def test_engine_forms_full_batches_of_waiting_requests(open_hf: Open, sizes: list[int]) -> None:
    async def ask() -> None:
        async with open_hf(max_batch_size=8) as engine:
            await ask_all(engine, [make_request(number) for number in range(20)])

    run(ask())
    assert sizes == [8, 8, 4]


@pytest.mark.parametrize(("most", "settled"), [(1, 1), (3, 2)])
def test_engine_halves_too_large_batches_and_keeps_limit(
    open_hf: Open, monkeypatch: pytest.MonkeyPatch, most: int, settled: int
) -> None:
    seen = watch_model(monkeypatch, out_of_memory_above(most))
    requests = [make_request(number) for number in range(32)]

    async def ask() -> tuple[list[Generation], list[Generation]]:
        async with open_hf(max_batch_size=16) as engine:
            first = await ask_all(engine, requests)
            seen.append(0)  # later batches use the engine's new limit
            return first, await ask_all(engine, requests[:9])

    first, second = run(ask())
    assert len(first) == 32
    assert second == first[:9]
    assert seen[:4] == [16, 8, 4, 2]
    assert max(seen[seen.index(0) :]) == settled


def test_request_too_large_alone_fails(open_hf: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    watch_model(monkeypatch, out_of_memory_above(0))

    async def ask() -> list[Any]:
        async with open_hf(max_batch_size=4) as engine:
            return await asyncio.gather(*(engine.generate(make_request(n)) for n in range(10)), return_exceptions=True)

    results = run(ask())
    assert [type(result) for result in results] == [OutOfMemory] * 10


@pytest.mark.parametrize(
    "text", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_engine_recognizes_other_allocators_by_their_messages(open_hf: Open, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    seen = watch_model(monkeypatch, lambda size, _tokens: RuntimeError(text) if size > 2 else None)

    async def ask() -> list[Generation]:
        async with open_hf(max_batch_size=4) as engine:
            return await ask_all(engine, [make_request(number) for number in range(4)])

    assert len(run(ask())) == 4
    assert seen == [4, 2, 2]


def test_engine_finds_the_faulty_request_of_a_batch(open_hf: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = transformers.AutoTokenizer
    poison = tokenizer.from_pretrained(TINY).convert_tokens_to_ids("~")
    watch_model(monkeypatch, lambda _size, tokens: ValueError("poison") if (tokens == poison).any() else None)

    async def ask() -> list[Any]:
        async with open_hf(max_batch_size=8) as engine:
            asked = [make_request(number, text="~" if number == 5 else "fine") for number in range(8)]
            return await asyncio.gather(*(engine.generate(request) for request in asked), return_exceptions=True)

    results = run(ask())
    assert [number for number, result in enumerate(results) if isinstance(result, SampleError)] == [5]
    assert results[5].code == "engine_rejected"
    assert "poison" in str(results[5])
    assert sum(isinstance(result, Generation) for result in results) == 7


def test_device_failure_fails_every_request(open_hf: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    watch_model(monkeypatch, lambda _size, _tokens: RuntimeError("CUDA error: device-side assert triggered"))

    async def ask() -> list[Any]:
        async with open_hf(max_batch_size=4) as engine:
            results = await asyncio.gather(*(engine.generate(make_request(n)) for n in range(12)), return_exceptions=True)
            with pytest.raises(EngineError, match="device-side assert"):
                await engine.generate(make_request())
        return results

    results = run(ask())
    assert [type(result) for result in results] == [EngineError] * 12


@pytest.mark.parametrize(("has_rotary", "batches"), [(True, [4]), (False, [1] * 4)])
def test_engine_runs_rows_alone_at_end_of_position_table(
    open_hf: Open, sizes: list[int], monkeypatch: pytest.MonkeyPatch, has_rotary: bool, batches: list[int]
) -> None:
    monkeypatch.setattr(HfModel, "_has_rotary_positions", property(lambda _: has_rotary, lambda *_: None), raising=False)

    async def ask() -> list[Generation]:
        async with open_hf(max_batch_size=4, max_model_len=128) as engine:
            return await ask_all(engine, [make_request(number, max_tokens=100) for number in range(4)])

    answers = run(ask())
    assert sizes == batches
    assert all((answer.prompt_tokens or 0) + (answer.output_tokens or 0) <= 128 for answer in answers)


def test_engine_ends_an_answer_before_a_stop_string(open_hf: Open) -> None:
    async def ask() -> tuple[Generation, Generation]:
        async with open_hf() as engine:
            whole = await engine.generate(make_request(text="Say it.", max_tokens=24))
            stop = next(letter for letter in whole.text[1:] if letter.isascii() and letter != whole.text[0])
            return whole, await engine.generate(make_request(text="Say it.", max_tokens=24, stop=(stop,)))

    whole, stopped = run(ask())
    assert whole.text.startswith(stopped.text)
    assert stopped.finish_reason == "stop"
    assert stopped.output_tokens < whole.output_tokens


def test_engine_frees_device_memory_of_too_large_batch(open_hf: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = transformers.LlavaForConditionalGeneration
    generate = model.generate
    pictures: list[weakref.ref[torch.Tensor]] = []
    left: list[bool] = []

    def watched(self: Any, **inputs: Any) -> Any:
        gc.collect()
        left.extend(picture() is not None for picture in pictures)
        pictures.append(weakref.ref(inputs["pixel_values"]))
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return generate(self, **inputs)

    monkeypatch.setattr(model, "generate", watched)

    async def ask() -> None:
        async with open_hf(dtype="bfloat16", max_batch_size=4) as engine:  # with float32, a CPU does not make a second copy
            await ask_all(engine, [make_request(number) for number in range(4)])

    run(ask())
    assert left == [False] * 3


def test_engine_sorts_vocabulary_only_for_top_p_below_one(open_hf: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise ValueError("sorted")

    monkeypatch.setattr(transformers.TopPLogitsWarper, "__call__", fail)

    async def ask() -> Generation:
        async with open_hf() as engine:
            with pytest.raises(SampleError, match="sorted"):
                await engine.generate(make_request(temperature=1.0, top_p=0.9, seed=1))
            return await engine.generate(make_request(temperature=1.0, top_p=1.0, seed=1))

    assert run(ask()).output_tokens


def test_engine_rejects_question_with_image_marker(open_hf: Open, sizes: list[int]) -> None:
    async def ask() -> None:
        async with open_hf() as engine:
            with pytest.raises(SampleError, match=r"image placeholder '<image>' 2 times; expected 1, one for each image"):
                await engine.generate(make_request(text="What is <image>?"))

    run(ask())
    assert sizes == []


def test_engine_accepts_several_images_and_system_message(open_hf: Open) -> None:
    asked = make_request(3, images=2)
    asked = Request("s", (Message("system", ("Be brief.",)), *asked.messages), asked.images, asked.settings)

    async def ask() -> list[Generation]:
        async with open_hf() as engine:
            return await ask_all(engine, [asked, make_request(1)])

    both, one = run(ask())
    assert both.prompt_tokens > one.prompt_tokens


def test_engine_does_not_write_to_the_terminal(open_hf: Open, capfd: pytest.CaptureFixture[str]) -> None:
    async def ask() -> None:
        async with open_hf() as engine:
            await ask_all(engine, [make_request(number, temperature=number % 2, seed=1, top_p=0.5) for number in range(4)])

    run(ask())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "finds no CUDA device"),
        ({"device": "gpu0"}, "expected auto, cpu or cuda"),
        ({"attn_implementation": "no"}, "no"),
    ],
)
def test_engine_names_option_unsupported_by_the_machine(open_hf: Open, options: dict[str, Any], message: str) -> None:
    if torch.cuda.is_available() and options.get("device") == "cuda":
        pytest.skip("this machine has a CUDA device")

    async def ask() -> None:
        async with open_hf(**options):
            pass

    with pytest.raises(ConfigError, match=message):
        run(ask())


def test_engine_rejects_missing_or_incomplete_weights(tmp_path: Path) -> None:
    for path in Path(TINY).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(next(name for name in sorted(tensors) if "projector" in name))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    async def start(folder: str) -> None:
        async with open_engine("hf", folder):
            pass

    with pytest.raises(ConfigError, match="lack 1 tensors"):
        run(start(str(tmp_path)))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        run(start(str(tmp_path / "nowhere")))
