"""A transformers model with its processor: renders, prepares and generates batches.  Synchronous; knows no waiting list."""

import copy
import gc
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
    TopPLogitsWarper,
)
from transformers.utils import logging as transformers_logging

from common.errors import ConfigError, EngineError, OutOfMemory, SampleError
from common.spec.models import ModelProfile, SamplingParams, Spec
from workers.engines.base import Generation, Request
from workers.engines.hf.batching import Waiting, cut_at_end, cut_at_stop


def _untyped(name: Any) -> Any:
    """Hide a type of transformers, whose annotations are incomplete and partly wrong."""
    return name


_untyped(transformers_logging).disable_progress_bar()  # a worker's log is lines, not a terminal

# Texts of allocators that do not raise torch.OutOfMemoryError (c10's CPU allocator, cuBLAS).
_OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
_DEAD_DEVICE_TEXTS = ("device-side assert", "CUDA error")
_MESSAGE_CHARACTERS = 500


class HfOptions(Spec):
    """Engine options.  ``device`` auto means CUDA where there is one, else the CPU."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: str = "auto"
    max_batch_size: int = Field(16, ge=1)
    attn_implementation: str | None = None


class HfModel:
    """A loaded model.

    Sampling is as the request says and nothing else: the top_k, repetition penalty and the like of the model's own
    ``generation_config.json`` are left out, of which only the end tokens are kept.
    """

    def __init__(self, profile: ModelProfile, weights: str, options: HfOptions) -> None:
        """Load the weights.  Raises ``ConfigError`` when they or the options do not fit, else ``EngineError``."""
        where = f"profile {profile.name}: weights {weights}"
        try:
            self._load(profile, weights, options)
        except ConfigError:
            raise
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ConfigError(f"{where}: cannot be loaded: {error}") from error
        except Exception as error:
            raise EngineError(f"{where}: the machine cannot run it: {type(error).__name__}: {error}") from error
        if not self._processor.chat_template:
            raise ConfigError(f"{where}: there is no chat template; put a chat_template.jinja beside the weights")

    def _load(self, profile: ModelProfile, weights: str, options: HfOptions) -> None:
        source = {"revision": profile.revision, "trust_remote_code": profile.trust_remote_code}
        self._device = _find_device(profile, options)
        self._processor = _untyped(AutoProcessor).from_pretrained(weights, **source)
        self._model, report = _untyped(AutoModelForImageTextToText).from_pretrained(
            weights, dtype=options.dtype, attn_implementation=options.attn_implementation, output_loading_info=True, **source
        )
        if missing := sorted(report["missing_keys"]):
            # transformers would fill them with random numbers and only log it
            raise ConfigError(f"profile {profile.name}: weights {weights} lack {len(missing)} tensors, the first is {missing[0]}")
        self._model.eval().to(self._device)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"
        ends = _as_list(self._model.generation_config.eos_token_id) + _as_list(tokenizer.eos_token_id)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._ends = {*ends, tokenizer.pad_token_id}
        self._model.generation_config = _untyped(GenerationConfig)(
            eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False
        )

    def render(self, request: Request) -> str:
        """Return the prompt as the model's chat template writes it.  Raises ``SampleError`` when it cannot."""
        conversation = [
            {"role": message.role, "content": [{"type": "image"}] * message.images + [{"type": "text", "text": message.text}]}
            for message in request.messages
        ]
        try:
            text: str = self._processor.apply_chat_template(conversation, add_generation_prompt=True, **request.template_options)
        except Exception as error:  # a template is a program of the model's maker
            raise SampleError("engine_rejected", f"the chat template refused the conversation: {error}") from error
        placeholder = getattr(self._processor, "image_token", None)
        if placeholder and (found := text.count(placeholder)) != len(request.images):
            message = f"the prompt holds the image marker {placeholder!r} {found} times but comes with {len(request.images)} images"
            raise SampleError("engine_rejected", f"{message}; remove the marker from the question")
        return text

    def prepare(self, batch: Sequence[Waiting]) -> Any:
        """Return the model's inputs on the CPU, padded on the left: tokens ``(batch, length)`` and the images' tensors."""
        texts = [one.text for one in batch]
        images = [list(one.request.images) for one in batch]
        bos = self._processor.tokenizer.bos_token
        has_bos = bool(bos) and texts[0].startswith(bos)
        try:
            return self._processor(
                text=texts,
                images=images if images[0] else None,
                padding=True,
                add_special_tokens=not has_bos,
                return_tensors="pt",
            )
        except Exception as error:  # noqa: BLE001  processors raise anything; sort_fault tells whose fault it is
            fault = sort_fault(error)
        raise fault

    def generate(self, batch: Sequence[Waiting], inputs: Any) -> list[Generation]:
        """Return one generation for each request of the batch.

        Rows whose future is done (cancelled, or failed by a stop) end at the next token.  Raises ``OutOfMemory``,
        ``EngineError`` when the device is dead, else ``SampleError``.
        """
        try:
            return self._generate(batch, inputs)
        except Exception as error:  # noqa: BLE001  models raise anything; sort_fault tells whose fault it is
            fault = sort_fault(error)
        # Raised out here, so that no traceback keeps the failed batch's tensors alive.
        if isinstance(fault, OutOfMemory):
            self._free_cache()
        raise fault

    def _generate(self, batch: Sequence[Waiting], inputs: Any) -> list[Generation]:
        settings = batch[0].request.settings
        tokenizer = self._processor.tokenizer
        # A copy, because ``to`` works in place: should this batch not fit, whoever runs its halves still holds ``inputs``.
        placed = copy.copy(inputs).to(self._device, dtype=self._model.dtype)
        rows = self._model.generate(
            **placed,
            max_new_tokens=settings.max_tokens,
            stop_strings=list(settings.stop) or None,
            tokenizer=tokenizer,
            logits_processor=[RowSampler([one.request.settings for one in batch], self._device)],
            stopping_criteria=[Abandoned(batch)],
        )
        prompt_tokens = placed["attention_mask"].sum(dim=1).tolist()
        answers = [cut_at_end(row, self._ends) for row in rows[:, placed["input_ids"].shape[1] :].tolist()]
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [
            to_generation(text, settings, prompt, len(answer))
            for text, prompt, answer in zip(texts, prompt_tokens, answers, strict=True)
        ]

    def release(self) -> None:
        """Give the model's memory back; the model is of no use afterwards."""
        del self._model
        self._free_cache()

    def _free_cache(self) -> None:
        if self._device.type == "cuda":
            gc.collect()  # reference cycles may still hold tensors
            torch.cuda.empty_cache()


class RowSampler(LogitsProcessor):
    """Samples each row by its own temperature, top_p and seed, in a batch that is decoded greedily.

    The argmax of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et al. 2014).  So a
    request's answer does not depend on the requests beside it, up to rounding, and any seeds share a batch.
    """

    def __init__(self, rows: Sequence[SamplingParams], device: torch.device) -> None:
        self._rows = [
            (row, settings.temperature, _make_warper(settings.top_p), _seed_generator(settings.seed, device))
            for row, settings in enumerate(rows)
            if settings.temperature > 0
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores ``(batch, vocabulary)``, with noise in the rows that sample."""
        for row, temperature, keep_top_p, generator in self._rows:
            logits = scores[row : row + 1] / temperature
            if keep_top_p:
                logits = keep_top_p(input_ids, logits)
            logits = logits[0]
            noise = torch.empty_like(logits).exponential_(generator=generator)
            scores[row] = logits - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
        return scores


class Abandoned(StoppingCriteria):
    """Ends the rows that nobody awaits any more."""

    def __init__(self, batch: Sequence[Waiting]) -> None:
        self._futures = [one.future for one in batch]

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        del scores, kwargs
        return torch.tensor([future.done() for future in self._futures], device=input_ids.device)


def to_generation(text: str, settings: SamplingParams, prompt_tokens: int, output_tokens: int) -> Generation:
    """Return an answer's record.  Stop strings and special tokens are not part of its text, end tokens not of its count."""
    text, has_stop = cut_at_stop(text, settings.stop)
    is_cut = output_tokens >= settings.max_tokens and not has_stop
    return Generation(text, "length" if is_cut else "stop", prompt_tokens, output_tokens)


def sort_fault(error: Exception) -> EngineError | SampleError:
    """Return whose fault an exception of the model is: the memory's, the device's, or else a sample's of the batch."""
    text = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in text for part in _OUT_OF_MEMORY_TEXTS):
        return OutOfMemory(text)
    if isinstance(error, torch.AcceleratorError) or any(part in text for part in _DEAD_DEVICE_TEXTS):
        return EngineError(text)
    return SampleError("engine_rejected", text)


def _find_device(profile: ModelProfile, options: HfOptions) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if options.device == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    try:
        device = torch.device(options.device)
    except RuntimeError:
        raise ConfigError(
            f"profile {profile.name}: engine_options: device: {options.device!r} is none; expected auto, cpu or cuda"
        ) from None
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(f"profile {profile.name}: engine_options: device: torch finds no CUDA device here; use auto or cpu")
    return device


def _make_warper(top_p: float) -> TopPLogitsWarper | None:
    """Return what keeps the likeliest tokens, ``None`` where all are kept: it sorts the vocabulary for every token."""
    return TopPLogitsWarper(top_p) if top_p < 1 else None


def _seed_generator(seed: int | None, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)
