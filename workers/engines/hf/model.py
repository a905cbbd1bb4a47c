"""A transformers model with its processor: renders prompts, prepares inputs and generates batches.

The calls are synchronous. The module does not depend on the queue of pending requests.
"""

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
)
from transformers.utils import logging as transformers_logging

from common.errors import ConfigError, EngineError, OutOfMemory, SampleError
from common.spec.models import ModelProfile, SamplingParams, Spec
from workers.engines.base import Generation, Request
from workers.engines.context import check_long_text, check_prompt_tokens
from workers.engines.hf.batching import Waiting, cut_at_end, cut_at_stop
from workers.engines.hf.positions import find_context, find_positions
from workers.engines.hf.rendering import ChatTemplate
from workers.engines.hf.rows import CancelledRows, FullRows, RowSampler
from workers.engines.load_faults import explain_load_failure
from workers.media.frames import Frames


def _untyped(name: Any) -> Any:
    """Return ``name`` as ``Any``: the annotations of transformers are incomplete and partly wrong."""
    return name


_untyped(transformers_logging).disable_progress_bar()  # a worker writes a log of lines, and a progress bar needs a terminal

# Error texts of allocators that do not raise torch.OutOfMemoryError: c10's CPU allocator, cuBLAS.
_OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
_DEVICE_ERROR_TEXTS = ("device-side assert", "CUDA error")
_MESSAGE_CHARACTERS = 500


class HfOptions(Spec):
    """The engine hf runs a model with transformers."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="type of the weights; auto: as saved")
    device: str = Field("auto", description="a device of torch, such as cpu or cuda:0; auto: CUDA if available, else the CPU")
    max_batch_size: int = Field(16, ge=1, description="maximum number of requests that are generated together")
    max_model_len: int | None = Field(None, ge=2, description="context in tokens; by default, the model's own")
    attn_implementation: str | None = Field(
        None, description="implementation of attention, by its name in transformers; by default, transformers chooses"
    )


class HfModel:
    """A loaded model.

    Only the request sets the sampling parameters. The model's ``generation_config.json`` (top_k, repetition penalty and so
    on) is ignored, except for its end tokens.
    """

    def __init__(self, profile: ModelProfile, weights: str, options: HfOptions) -> None:
        """Load the weights.

        Raises ``ConfigError`` if the weights or the options are invalid, ``TransientError`` if they cannot be downloaded or
        read now, ``EngineError`` for any other failure.
        """
        where = f"profile {profile.name}: weights {weights}"
        try:
            self._load(profile, weights, options)
        except ConfigError:
            raise
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise explain_load_failure(error, f"{where}: cannot be loaded: {error}") from error
        except Exception as error:
            raise EngineError(f"{where}: this machine cannot run the model: {type(error).__name__}: {error}") from error
        if not self._processor.chat_template:
            raise ConfigError(f"{where}: no chat template; add a chat_template.jinja file to the folder of the weights")
        self._template = ChatTemplate(self._processor)
        self.takes_videos = self._template.takes_videos

    def _load(self, profile: ModelProfile, weights: str, options: HfOptions) -> None:
        source = {"revision": profile.revision, "trust_remote_code": profile.trust_remote_code}
        self._device = _find_device(profile, options)
        self._processor = _untyped(AutoProcessor).from_pretrained(weights, **source)
        self._model, report = _untyped(AutoModelForImageTextToText).from_pretrained(
            weights, dtype=options.dtype, attn_implementation=options.attn_implementation, output_loading_info=True, **source
        )
        if missing := sorted(report["missing_keys"]):
            # transformers would initialise them with random numbers and only log a warning
            raise ConfigError(
                f"profile {profile.name}: weights {weights} lack {len(missing)} tensors, the first is {missing[0]}; "
                "check that the download is complete and that the weights belong to this model class"
            )
        self._model.eval().to(self._device)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"
        ends = _as_list(self._model.generation_config.eos_token_id) + _as_list(tokenizer.eos_token_id)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._context_tokens = find_context(profile, options.max_model_len, find_positions(self._model.config), tokenizer)
        self._has_rotary_positions = hasattr(self._model.config.get_text_config(), "rope_parameters")
        # A tokenizer serves one thread at a time.
        self._long_text_tokenizer = copy.deepcopy(tokenizer)
        self._ends = {*ends, tokenizer.pad_token_id}
        self._model.generation_config = _untyped(GenerationConfig)(
            eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False
        )

    def render(self, request: Request) -> str:
        """Return the prompt rendered by the model's chat template. Raises the errors of ``ChatTemplate.render``."""
        return self._template.render(request)

    def render_long(self, request: Request) -> str:
        """Return the rendered prompt of a request with a long text. Call this from one thread only.

        Raises the errors of ``render``, and ``SampleError`` (``too_long``) if the text is certainly longer than the context.
        """
        text = self.render(request)
        check_long_text(text, self._context_tokens, lambda piece: len(self._long_text_tokenizer(piece, verbose=False)["input_ids"]))
        return text

    def prepare(self, batch: Sequence[Waiting]) -> Any:
        """Return the model's inputs on the CPU: tokens of shape ``(batch, length)``, padded on the left, and the image tensors.

        Raises ``OutOfMemory``, ``EngineError`` if the device has failed, otherwise ``SampleError``.
        """
        texts = [waiting.text for waiting in batch]
        images = [waiting.request.shown_images for waiting in batch]
        videos = [video for waiting in batch for video in waiting.request.shown_videos]
        bos = self._processor.tokenizer.bos_token
        has_bos = bool(bos) and texts[0].startswith(bos)
        try:
            return self._processor(
                text=texts,
                images=images if images[0] else None,
                padding=True,
                add_special_tokens=not has_bos,
                return_tensors="pt",
                **_write_videos(videos),
            )
        except Exception as error:  # noqa: BLE001  processors raise errors of any type; classify_fault decides what is at fault
            fault = classify_fault(error)
        raise fault

    def find_too_long(self, inputs: Any) -> list[SampleError | None]:
        """Return one entry for each row of the inputs: an error if its prompt fills the context. Image tokens count."""
        faults: list[SampleError | None] = []
        for prompt_tokens in _count_prompt_tokens(inputs):
            try:
                check_prompt_tokens(prompt_tokens, self._context_tokens)
                faults.append(None)
            except SampleError as fault:
                faults.append(fault.with_traceback(None))
        return faults

    def generate(self, batch: Sequence[Waiting], inputs: Any) -> list[Generation]:
        """Return one generation for each request of the batch.

        A row ends at its next token once its future is done (cancelled, or failed because the engine stops), and at the end of
        the context.
        Raises ``OutOfMemory``, ``EngineError`` if the device has failed, otherwise ``SampleError``.
        """
        try:
            return self._generate(batch, inputs)
        except Exception as error:  # noqa: BLE001  models raise errors of any type; classify_fault decides what is at fault
            fault = classify_fault(error)
        # Raise outside the except block: a traceback would keep the failed batch's tensors alive.
        if isinstance(fault, OutOfMemory):
            self._free_cache()
        raise fault

    def _generate(self, batch: Sequence[Waiting], inputs: Any) -> list[Generation]:
        settings = batch[0].request.settings
        tokenizer = self._processor.tokenizer
        # Copy, because ``to`` works in place and the caller keeps ``inputs``: if this batch does not fit, the tensors would stay on
        # the device while its halves run.
        placed = copy.copy(inputs).to(self._device, dtype=self._model.dtype)
        prompt_tokens = _count_prompt_tokens(inputs)
        most_tokens = [min(settings.max_tokens, self._context_tokens - prompt) for prompt in prompt_tokens]
        if min(most_tokens) < max(most_tokens) and not self._has_rotary_positions:
            # A row that has ended still gets positions. Positions beyond the model's table would crash the device.
            raise SampleError("engine_rejected", "the rows of the batch have different room in the context; run each row alone")
        rows = self._model.generate(
            **placed,
            max_new_tokens=max(most_tokens),
            stop_strings=list(settings.stop) or None,
            tokenizer=tokenizer,
            logits_processor=[RowSampler([waiting.request.settings for waiting in batch], self._device)],
            stopping_criteria=[CancelledRows(batch), FullRows(most_tokens, placed["input_ids"].shape[1])],
        )
        answers = [cut_at_end(row, self._ends) for row in rows[:, placed["input_ids"].shape[1] :].tolist()]
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [
            to_generation(text, settings, prompt, len(answer), most)
            for text, prompt, answer, most in zip(texts, prompt_tokens, answers, most_tokens, strict=True)
        ]

    def release(self) -> None:
        """Release the model's memory. The model cannot be used afterwards."""
        del self._model
        self._free_cache()

    def _free_cache(self) -> None:
        if self._device.type == "cuda":
            gc.collect()  # reference cycles may still hold tensors
            torch.cuda.empty_cache()


def to_generation(text: str, settings: SamplingParams, prompt_tokens: int, output_tokens: int, most_tokens: int) -> Generation:
    """Return the generation for a decoded answer, which may have at most ``most_tokens`` tokens.

    The text is cut before the first stop string. ``text`` has no special tokens, and ``output_tokens`` excludes the end token.
    """
    text, has_stop = cut_at_stop(text, settings.stop)
    is_truncated = output_tokens >= most_tokens and not has_stop
    return Generation(text, "length" if is_truncated else "stop", prompt_tokens, output_tokens)


def classify_fault(error: Exception) -> EngineError | SampleError:
    """Return an exception of the model as a fleet error.

    The result is ``OutOfMemory``, ``EngineError`` if the device has failed, and otherwise a ``SampleError`` of the batch.
    """
    text = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in text for part in _OUT_OF_MEMORY_TEXTS):
        return OutOfMemory(text)
    if isinstance(error, torch.AcceleratorError) or any(part in text for part in _DEVICE_ERROR_TEXTS):
        return EngineError(text)
    return SampleError("engine_rejected", text)


def _count_prompt_tokens(inputs: Any) -> list[int]:
    counts: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
    return counts


def _find_device(profile: ModelProfile, options: HfOptions) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if options.device == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    try:
        device = torch.device(options.device)
    except RuntimeError:
        raise ConfigError(
            f"profile {profile.name}: engine_options: device: unknown device {options.device!r}; expected auto, cpu or cuda"
        ) from None
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(
            f"profile {profile.name}: engine_options: device: torch finds no CUDA device on this machine; use auto or cpu"
        )
    return device


def _write_videos(videos: Sequence[Frames]) -> dict[str, Any]:
    """Return the arguments of a processor for videos. Their frames are chosen already."""
    if not videos:
        return {}
    metadata = [video.metadata for video in videos]
    return {"videos": [video.stack() for video in videos], "video_metadata": metadata, "do_sample_frames": False}


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)
