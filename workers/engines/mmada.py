"""MMaDA, a diffusion model: it fills a row of masks block by block, one request at a time.

Its package is not on PyPI.  The steps follow ``inference_mmu.py`` of https://github.com/Gen-Verse/MMaDA, whose top-level
packages ``models`` and ``training`` are imported here and nowhere else.
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
from workers.engines.hf.batching import cut_at_end
from workers.engines.hf.model import sort_fault, to_generation

_ADVICE = (
    "MMaDA is not on PyPI: git clone https://github.com/Gen-Verse/MMaDA && pip install -r MMaDA/requirements.txt (in an "
    'environment of its own: it wants transformers 4.46), then export PYTHONPATH="$PWD/MMaDA"'
)
_END_OF_TURN = "<|eot_id|>"


class MmadaOptions(Spec):
    """Engine options.

    ``vq_weights`` is the image tokenizer.  Images become ``resolution`` pixels square: ``squash`` keeps all of them,
    ``crop`` their proportions.  An answer is written in blocks of ``block_length`` tokens, ``tokens_per_step`` at a step.
    """

    vq_weights: str = "showlab/magvitv2"
    resolution: int = Field(512, ge=16, multiple_of=16)
    fit: Literal["squash", "crop"] = "squash"
    block_length: int = Field(64, ge=1)
    tokens_per_step: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.block_length % self.tokens_per_step:
            raise ValueError(f"block_length {self.block_length} is no multiple of tokens_per_step {self.tokens_per_step}")
        return self


class MmadaEngine:
    """Answers one request after the other, on one thread.  A request that nobody awaits ends at its next step."""

    def __init__(self, profile: ModelProfile, weights: str) -> None:
        self._profile = profile
        self._weights = weights
        self._options = check(MmadaOptions, profile.engine_options, f"profile {profile.name}: engine_options")
        self._thread = ThreadPoolExecutor(1, "mmada")
        self._stopped = threading.Event()
        self._fault: EngineError | None = EngineError("the engine is not running")
        self._model: MmadaModel | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._model = await loop.run_in_executor(self._thread, MmadaModel, self._profile, self._weights, self._options)
        self._fault = None

    async def generate(self, request: Request) -> Generation:
        if self._fault or self._model is None:
            raise EngineError(str(self._fault))
        is_over = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._model.generate, request, (self._stopped, is_over)
            )
        except EngineError as fault:
            self._fault = fault
            raise
        finally:
            is_over.set()

    async def stop(self) -> None:
        self._fault = EngineError("the engine was stopped")
        self._stopped.set()
        await asyncio.to_thread(self._thread.shutdown)  # what waits there ends at once, what runs at its next step
        if self._model:
            self._model.release()
            self._model = None


class MmadaModel:
    """The loaded model with its image tokenizer.  Synchronous."""

    def __init__(self, profile: ModelProfile, weights: str, options: MmadaOptions) -> None:
        """Load the weights.  Raises ``ConfigError`` when the package is missing or the weights do not fit, else ``EngineError``."""
        where = f"profile {profile.name}: weights {weights}"
        self._options = options
        self._ends: tuple[threading.Event, ...] = ()  # events that end the request at work
        try:
            self._load(profile, weights)
        except ConfigError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{where}: cannot be loaded: {error}") from error
        except (AttributeError, ImportError, TypeError) as error:
            found = f"{transformers.__version__} is installed here: {error}"
            raise ConfigError(f"{where}: MMaDA's code wants transformers 4.46 and fails where {found}") from error
        except Exception as error:
            raise EngineError(f"{where}: the machine cannot run it: {type(error).__name__}: {error}") from error

    def _load(self, profile: ModelProfile, weights: str) -> None:
        vq_model, model = _import_part("models:MAGVITv2", profile), _import_part("models:MMadaModelLM", profile)
        prompting = _import_part("training.prompting_utils:UniversalPrompting", profile)
        transform = "image_transform_squash" if self._options.fit == "squash" else "image_transform"
        self._fit = _import_part(f"training.utils:{transform}", profile)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        auto_tokenizer: Any = AutoTokenizer
        self._tokenizer = auto_tokenizer.from_pretrained(weights, revision=profile.revision, padding_side="left")
        if not self._tokenizer.chat_template:
            raise ConfigError(f"profile {profile.name}: weights {weights}: there is no chat template beside the tokenizer")
        self._end_tokens = {self._tokenizer.eos_token_id, self._tokenizer.get_vocab().get(_END_OF_TURN)}
        self._prompting = prompting(self._tokenizer, use_reserved_token=True)
        self._vq_model = vq_model.from_pretrained(self._options.vq_weights).to(self._device).eval()
        source = {"revision": profile.revision, "trust_remote_code": profile.trust_remote_code}
        self._model = model.from_pretrained(weights, torch_dtype=torch.bfloat16, **source).to(self._device).eval()
        self._model.register_forward_pre_hook(lambda *_: self._end_if_over())

    def generate(self, request: Request, ends: tuple[threading.Event, ...]) -> Generation:
        """Return the answer.

        Raises ``OutOfMemory``, ``EngineError`` when the device is dead or one of ``ends`` is set, else ``SampleError``.
        """
        self._ends = ends
        self._end_if_over()
        _refuse_unsupported(request)
        try:
            return self._generate(request)
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001  models raise anything; sort_fault tells whose fault it is
            fault = sort_fault(error)
        # Raised out here, so that no traceback keeps the failed request's tensors alive.
        if isinstance(fault, OutOfMemory):
            self._free_cache()
        raise fault

    @torch.inference_mode()
    def _generate(self, request: Request) -> Generation:
        settings, block, pace = request.settings, self._options.block_length, self._options.tokens_per_step
        prompt = self._encode(request)
        room = -(-settings.max_tokens // block) * block  # whole blocks; what is more than asked is cut off below
        if settings.temperature > 0 and settings.seed is not None:
            torch.manual_seed(settings.seed)  # the model draws from torch's own generator, which nobody else uses here
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            rows = self._model.mmu_generate(
                prompt, max_new_tokens=room, steps=room // pace, block_length=block, temperature=settings.temperature
            )
        answer = cut_at_end(rows[0, prompt.shape[1] :].tolist()[: settings.max_tokens], self._end_tokens)
        text = self._tokenizer.decode(answer, skip_special_tokens=True)
        return to_generation(text, settings, prompt.shape[1], len(answer))

    def _encode(self, request: Request) -> torch.Tensor:
        """Return the prompt's tokens, ``(1, length)``: task token, image between its marks, conversation."""
        turns = [{"role": message.role, "content": message.text} for message in request.messages]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **request.template_options)
        tokens: torch.Tensor = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(self._device)
        if not request.images:
            return tokens
        pixels = self._fit(request.images[0], resolution=self._options.resolution).unsqueeze(0).to(self._device)
        codes = self._vq_model.get_code(pixels) + len(self._tokenizer)  # image tokens are numbered after those of text
        task, begin, end = (
            self._prompting.sptids_dict[mark].view(1, 1).to(self._device) for mark in ("<|mmu|>", "<|soi|>", "<|eoi|>")
        )
        return torch.cat([task, begin, codes, end, tokens], dim=1).long()

    def _end_if_over(self) -> None:
        if any(event.is_set() for event in self._ends):
            raise EngineError("the engine was stopped, or the request cancelled")

    def release(self) -> None:
        """Give the model's memory back; the model is of no use afterwards."""
        del self._model, self._vq_model
        self._free_cache()

    def _free_cache(self) -> None:
        if self._device.type == "cuda":
            gc.collect()  # reference cycles may still hold tensors
            torch.cuda.empty_cache()


def _refuse_unsupported(request: Request) -> None:
    if len(request.images) > 1:
        raise SampleError("engine_rejected", f"MMaDA takes one image, the request has {len(request.images)}")
    if request.settings.top_p < 1:
        raise SampleError("engine_rejected", f"MMaDA has no top_p (found {request.settings.top_p}); leave generation.top_p at 1.0")


def _import_part(path: str, profile: ModelProfile) -> Any:
    """Return a class or function of MMaDA.  Raises ``ConfigError`` with what to install."""
    try:
        return import_object(path, what=f"profile {profile.name}: engine: MMaDA's")
    except ConfigError as error:
        raise ConfigError(f"{error} {_ADVICE}") from error
