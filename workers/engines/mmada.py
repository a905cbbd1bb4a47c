"""The MMaDA engine. MMaDA is a diffusion language model: it unmasks the answer block by block, one request at a time.

The MMaDA package is not on PyPI. The steps follow ``inference_mmu.py`` of https://github.com/Gen-Verse/MMaDA. Only this
module imports its top-level packages ``models`` and ``training``.
"""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Self

import torch
import transformers
from pydantic import Field, model_validator
from transformers import AutoTokenizer

from common.errors import ConfigError, EngineError, OutOfMemory, SampleError
from common.plugins import import_object
from common.spec.files import check
from common.spec.models import ModelProfile, Spec
from workers.engines.base import Generation, Request
from workers.engines.context import check_long_text, check_prompt_tokens, has_long_text
from workers.engines.hf.batching import cut_at_end
from workers.engines.hf.model import classify_fault, to_generation
from workers.engines.hf.positions import find_context
from workers.engines.load_faults import explain_load_failure

_ADVICE = (
    "MMaDA is not on PyPI: git clone https://github.com/Gen-Verse/MMaDA && pip install -r MMaDA/requirements.txt (in a "
    'separate environment: it requires transformers 4.46), then export PYTHONPATH="$PWD/MMaDA"'
)
_END_OF_TURN = "<|eot_id|>"


class MmadaOptions(Spec):
    """The engine of MMaDA (``workers.engines.mmada:MmadaEngine``) generates an answer in blocks, in denoising steps."""

    vq_weights: str = Field("showlab/magvitv2", description="weights of the image tokenizer")
    resolution: int = Field(512, ge=16, multiple_of=16, description="width and height of an image in pixels")
    fit: Literal["squash", "crop"] = Field("squash", description="squash: keeps the whole image; crop: keeps its aspect ratio")
    block_length: int = Field(64, ge=1, description="tokens of a block of the answer; a multiple of tokens_per_step")
    tokens_per_step: int = Field(2, ge=1, description="tokens that one denoising step generates")
    max_model_len: int | None = Field(None, ge=2, description="context in tokens; by default, max_sequence_length of the weights")

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.block_length % self.tokens_per_step:
            raise ValueError(f"block_length {self.block_length} is not a multiple of tokens_per_step {self.tokens_per_step}")
        return self


class MmadaEngine:
    """Answers one request after another, on one thread. A cancelled request ends at its next denoising step.

    Raises ``ConfigError`` for invalid ``engine_options``.
    """

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        self._profile = profile
        self._weights = weights
        self._options = check(MmadaOptions, profile.engine_options, f"profile {profile.name}: engine_options")
        self._thread = ThreadPoolExecutor(1, "mmada")
        self._stopped = threading.Event()
        self._fault: EngineError | None = EngineError("the engine is not running")
        self._model: MmadaModel | None = None

    async def start(self) -> None:
        """Load the model. Raises the errors of ``MmadaModel``."""
        loop = asyncio.get_running_loop()
        self._model = await loop.run_in_executor(self._thread, MmadaModel, self._profile, self._weights, self._options)
        self._fault = None

    async def generate(self, request: Request) -> Generation:
        """Return one generation.

        Raises ``SampleError`` (including ``OutOfMemory``) if the request is at fault, ``EngineError`` if the engine is stopped
        or its device has failed.
        """
        if self._fault or self._model is None:
            raise EngineError(str(self._fault))
        is_cancelled = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._model.generate, request, (self._stopped, is_cancelled)
            )
        except EngineError as fault:
            self._fault = fault
            raise
        finally:
            is_cancelled.set()

    async def stop(self) -> None:
        """Fail the requests in flight, stop the thread and release the device's memory."""
        self._fault = EngineError("the engine was stopped")
        self._stopped.set()
        await asyncio.to_thread(self._thread.shutdown)  # queued requests end immediately, the running request at its next step
        if self._model:
            self._model.release()
            self._model = None


class MmadaModel:
    """The loaded model with its image tokenizer. Its calls are synchronous."""

    def __init__(self, profile: ModelProfile, weights: str, options: MmadaOptions) -> None:
        """Load the weights.

        Raises ``ConfigError`` if the package is missing or the weights are invalid, ``TransientError`` if they cannot be
        downloaded or read now, ``EngineError`` for any other failure.
        """
        where = f"profile {profile.name}: weights {weights}"
        self._options = options
        self._cancel_events: tuple[threading.Event, ...] = ()  # any of them ends the running request
        try:
            self._load(profile, weights)
        except ConfigError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise explain_load_failure(error, f"{where}: cannot be loaded: {error}") from error
        except (AttributeError, ImportError, TypeError) as error:
            found = f"transformers {transformers.__version__}: {error}"
            raise ConfigError(f"{where}: MMaDA requires transformers 4.46 and fails with the installed {found}") from error
        except Exception as error:
            raise EngineError(f"{where}: this machine cannot run the model: {type(error).__name__}: {error}") from error

    def _load(self, profile: ModelProfile, weights: str) -> None:
        vq_model, model = _import_part("models:MAGVITv2", profile), _import_part("models:MMadaModelLM", profile)
        prompting = _import_part("training.prompting_utils:UniversalPrompting", profile)
        transform = "image_transform_squash" if self._options.fit == "squash" else "image_transform"
        self._fit = _import_part(f"training.utils:{transform}", profile)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        auto_tokenizer: Any = AutoTokenizer
        self._tokenizer = auto_tokenizer.from_pretrained(weights, revision=profile.revision, padding_side="left")
        if not self._tokenizer.chat_template:
            raise ConfigError(f"profile {profile.name}: weights {weights}: the tokenizer has no chat template")
        self._end_tokens = {self._tokenizer.eos_token_id, self._tokenizer.get_vocab().get(_END_OF_TURN)}
        self._prompting = prompting(self._tokenizer, use_reserved_token=True)
        self._vq_model = vq_model.from_pretrained(self._options.vq_weights).to(self._device).eval()
        source = {"revision": profile.revision, "trust_remote_code": profile.trust_remote_code}
        self._model = model.from_pretrained(weights, torch_dtype=torch.bfloat16, **source).to(self._device).eval()
        positions = getattr(self._model.config, "max_sequence_length", None)
        self._context_tokens = find_context(profile, self._options.max_model_len, positions, self._tokenizer)
        self._model.register_forward_pre_hook(lambda *_: self._raise_if_cancelled())

    def generate(self, request: Request, cancel_events: tuple[threading.Event, ...]) -> Generation:
        """Return the generation.

        Raises ``OutOfMemory``, ``EngineError`` if the device has failed or one of ``cancel_events`` is set, otherwise
        ``SampleError``.
        """
        self._cancel_events = cancel_events
        self._raise_if_cancelled()
        _reject_unsupported(request)
        try:
            return self._generate(request)
        except (EngineError, SampleError):
            raise
        except Exception as error:  # noqa: BLE001  models raise errors of any type; classify_fault decides what is at fault
            fault = classify_fault(error)
        # Raise outside the except block: a traceback would keep the failed request's tensors alive.
        if isinstance(fault, OutOfMemory):
            self._free_cache()
        raise fault

    @torch.inference_mode()
    def _generate(self, request: Request) -> Generation:
        settings = request.settings
        prompt = self._encode(request)
        room = self._context_tokens - prompt.shape[1]
        block_length = min(self._options.block_length, room)
        # Use as many whole blocks as fit into the context. The answer is cut to max_tokens below.
        length = min(-(-settings.max_tokens // block_length), room // block_length) * block_length
        most_tokens = min(settings.max_tokens, length)
        steps_per_block = max(1, block_length // self._options.tokens_per_step)
        if settings.temperature > 0 and settings.seed is not None:
            torch.manual_seed(settings.seed)  # the model samples from torch's global generator, which no other code uses here
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            rows = self._model.mmu_generate(
                prompt,
                max_new_tokens=length,
                steps=length // block_length * steps_per_block,
                block_length=block_length,
                temperature=settings.temperature,
            )
        answer = cut_at_end(rows[0, prompt.shape[1] :].tolist()[:most_tokens], self._end_tokens)
        text = self._tokenizer.decode(answer, skip_special_tokens=True)
        return to_generation(text, settings, prompt.shape[1], len(answer), most_tokens)

    def _encode(self, request: Request) -> torch.Tensor:
        """Return the prompt's tokens, shape ``(1, length)``: task token, image tokens between their markers, conversation.

        Raises ``SampleError`` (``too_long``) if they fill the context.
        """
        turns = [{"role": message.role, "content": message.text} for message in request.messages]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **request.template_options)
        if has_long_text(request):
            check_long_text(text, self._context_tokens, lambda piece: len(self._tokenizer(piece, verbose=False)["input_ids"]))
        tokens: torch.Tensor = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(self._device)
        if not request.shown:
            check_prompt_tokens(tokens.shape[1], self._context_tokens)
            return tokens
        pixels = self._fit(request.shown[0], resolution=self._options.resolution).unsqueeze(0).to(self._device)
        codes = self._vq_model.get_code(pixels) + len(self._tokenizer)  # image token ids follow the text token ids
        task, begin, end = (
            self._prompting.sptids_dict[marker].view(1, 1).to(self._device) for marker in ("<|mmu|>", "<|soi|>", "<|eoi|>")
        )
        prompt = torch.cat([task, begin, codes, end, tokens], dim=1).long()
        check_prompt_tokens(prompt.shape[1], self._context_tokens)
        return prompt

    def _raise_if_cancelled(self) -> None:
        if any(event.is_set() for event in self._cancel_events):
            raise EngineError("the engine was stopped, or the request was cancelled")

    def release(self) -> None:
        """Release the model's memory. The model cannot be used afterwards."""
        del self._model, self._vq_model
        self._free_cache()

    def _free_cache(self) -> None:
        if self._device.type == "cuda":
            gc.collect()  # reference cycles may still hold tensors
            torch.cuda.empty_cache()


def _reject_unsupported(request: Request) -> None:
    images = len(request.shown)
    if images > 1:
        raise SampleError("engine_rejected", f"MMaDA takes at most one image, but the request has {images}; use samples with one")
    first = next((message for message in request.messages if message.role == "user"), None)
    if images and not (first and isinstance(first.content[0], int)):
        raise SampleError(
            "engine_rejected",
            "MMaDA takes its image before all questions, but the request has it after a text; remove the image marker, or use "
            "another model",
        )
    if request.settings.top_p < 1:
        raise SampleError("engine_rejected", f"MMaDA does not support top_p {request.settings.top_p}; set generation.top_p to 1.0")


def _import_part(path: str, profile: ModelProfile) -> Any:
    """Return a class or function of MMaDA. Raises ``ConfigError`` with the install command if it is missing."""
    try:
        return import_object(path, what=f"profile {profile.name}: engine: MMaDA's")
    except ConfigError as error:
        raise ConfigError(f"{error} {_ADVICE}") from error
