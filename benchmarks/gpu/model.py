"""A model's folder without weights: the shape of a real model and a tokenizer of the same size.

    python -m benchmarks.gpu.model FOLDER [--shape qwen2.5-vl-7b]

An engine that creates random weights (vLLM's ``load_format: dummy``) then computes as much as with the real model, but its answers
are meaningless. The shapes ``small`` and ``tiny`` (for a CPU) are invented shapes of the same family.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PretrainedConfig, Qwen2_5_VLConfig

# As in Qwen2.5: this number of plain tokens, then the special tokens in this order.
_PLAIN_TOKENS = 151_643
_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_IDS = {token: _PLAIN_TOKENS + number for number, token in enumerate(_SPECIAL)}
_LEARNED_TOKENS = 8_000

# A short form of Qwen2.5-VL's template: its default system prompt, and images and text in their order.
_CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url', 'image_pil') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A model's dimensions. ``mrope_section`` divides half of an attention head among time, height and width."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    mrope_section: tuple[int, int, int]
    vision_layers: int
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_heads: int
    vision_whole_layers: tuple[int, ...]
    dtype: str


SHAPES = {
    # The published config.json of Qwen2.5-VL-7B-Instruct.
    "qwen2.5-vl-7b": Shape(3584, 18944, 28, 28, 4, (16, 24, 24), 32, 1280, 3420, 16, (7, 15, 23, 31), "bfloat16"),
    "small": Shape(1024, 4096, 8, 16, 4, (8, 12, 12), 8, 512, 1536, 8, (3, 7), "bfloat16"),
    "tiny": Shape(128, 256, 2, 4, 2, (4, 6, 6), 2, 64, 128, 2, (1,), "float32"),
}


def write_model(folder: Path, shape: Shape) -> None:
    """Write all files of a model's folder except its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    make_config(shape).save_pretrained(folder)
    ends = {"bos_token_id": _IDS["<|endoftext|>"], "eos_token_id": _IDS["<|im_end|>"], "pad_token_id": _IDS["<|endoftext|>"]}
    GenerationConfig(**ends).save_pretrained(folder)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    train_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": list(_SPECIAL[1:]),
            "model_max_length": 32768,
            "processor_class": "Qwen2_5_VLProcessor",
        },
    )
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "min_pixels": 4 * 28 * 28,
            "max_pixels": 16384 * 28 * 28,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE)


def make_config(shape: Shape) -> PretrainedConfig:
    """Return the configuration of a Qwen2.5-VL model of this shape."""
    return Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        dtype=shape.dtype,
        text_config={
            "vocab_size": 152064,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "max_position_embeddings": 128_000,
            "max_window_layers": shape.layers,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(shape.mrope_section)},
            "bos_token_id": _IDS["<|endoftext|>"],
            "eos_token_id": _IDS["<|im_end|>"],
            "dtype": shape.dtype,
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_hidden_size,
            "intermediate_size": shape.vision_intermediate_size,
            "num_heads": shape.vision_heads,
            "out_hidden_size": shape.hidden_size,
            "fullatt_block_indexes": list(shape.vision_whole_layers),
            "tokens_per_second": 2,
            "window_size": 112,
        },
        image_token_id=_IDS["<|image_pad|>"],
        video_token_id=_IDS["<|video_pad|>"],
        vision_start_token_id=_IDS["<|vision_start|>"],
        vision_end_token_id=_IDS["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def train_tokenizer() -> Tokenizer:
    """Return a byte-level BPE with as many tokens as Qwen2.5's, so that every generated token can be decoded.

    The tokens of prompts are learned from the words of this file. The other tokens are invented and never occur in prompts.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=_LEARNED_TOKENS, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    learned: dict[str, Any] = json.loads(bpe.to_str())["model"]
    vocabulary, merges = learned["vocab"], [tuple(pair) for pair in learned["merges"]]
    made_up = ("Ġ" + "".join(letters) for letters in product(ascii_lowercase, repeat=4))  # Ġ is a space
    unknown = (token for token in made_up if token not in vocabulary)
    vocabulary |= {token: number for number, token in enumerate(islice(unknown, _PLAIN_TOKENS - len(vocabulary)), len(vocabulary))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-vl-7b")
    asked = parser.parse_args()
    write_model(asked.folder, SHAPES[asked.shape])


if __name__ == "__main__":
    main()
