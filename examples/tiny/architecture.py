"""The architecture of the tiny model: build and save its tokenizer, processor and LLaVA network."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

IMAGE_PX = 64
PATCH_PX = 8
IMAGE_TOKENS = (IMAGE_PX // PATCH_PX) ** 2
MAX_TOKENS = 2048
VOCABULARY = 1024
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<|system|>", "<|user|>", "<|assistant|>")

_ROLES: dict[str, str] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

# Each message consists of the token of its role, its images and its text. An answer ends with </s>. The template contains all
# special tokens, so a rendered prompt is complete for every engine, including engines that do not add special tokens.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<image>' }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Pairs of a weight's name in memory and its name in the file. vLLM requires ``vision_model``, which newer versions of
# transformers omit when they save; transformers reads both names.
_NAMES_IN_FILE = (
    (r"^model\.vision_tower\.(?:vision_model\.)?", "vision_tower.vision_model."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of at most 1024 tokens on ``texts`` and return it. It can encode any text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=bpe,
        **_ROLES,
        additional_special_tokens=list(SPECIAL[3:]),
        model_max_length=MAX_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor. It scales images to 64x64 pixels with PIL and expands each ``<image>`` to 64 tokens."""
    images = SiglipImageProcessorPil(size={"height": IMAGE_PX, "width": IMAGE_PX}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(  # type: ignore[no-untyped-call]  # as above
        images, tokenizer, patch_size=PATCH_PX, vision_feature_select_strategy="full", chat_template=CHAT_TEMPLATE
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Return the untrained network of about 5.1 million weights in float32.

    LLaVA uses the second to last vision layer, because transformers and vLLM give the same result for that layer, but not for
    the last layer. The fourth vision layer is therefore unused.
    """
    ids: dict[str, Any] = {f"{role}_id": tokenizer.convert_tokens_to_ids(token) for role, token in _ROLES.items()}
    vision = SiglipVisionConfig(
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=False,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        **ids,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**ids, do_sample=False)  # type: ignore[no-untyped-call]  # as above
    return model


def save_model(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write the configuration, the processor and bf16 weights in a form that transformers and vLLM can load."""
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    model.config.dtype = torch.bfloat16
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights = {_name_in_file(name): weight.to(torch.bfloat16).cpu().contiguous() for name, weight in model.state_dict().items()}
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes the file readable only for its owner


def _name_in_file(name: str) -> str:
    for pattern, replacement in _NAMES_IN_FILE:
        name, changed = re.subn(pattern, replacement, name)
        if changed:
            return name
    raise ValueError(f"the weight {name} is not in _NAMES_IN_FILE; transformers has renamed parts of LLaVA; update _NAMES_IN_FILE")
