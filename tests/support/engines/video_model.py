"""A tiny model with a video input: Qwen3-VL with random weights. Its prompt states the time of each pair of frames."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.support.engines.requests import TINY

_PATCH = {"patch_size": 8, "temporal_patch_size": 2}
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<|vision_start|><|' + part['type'] + '_pad|><|vision_end|>' }}"
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_video_model(folder: Path) -> str:
    """Write the weights, the tokenizer of the tiny model and the processor into ``folder``. Return the folder's path."""
    names = ["vision_start", "vision_end", "image", "video"]
    tokens = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.save_pretrained(folder)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in zip(names, tokens, strict=True)}
    torch.manual_seed(0)
    model: Any = Qwen3VLForConditionalGeneration(_make_config(len(tokenizer), ids))
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.2)  # larger than by default, so that answers depend on the frames
    model.save_pretrained(folder)
    _write_processor(folder)
    return str(folder)


def _make_config(vocabulary: int, ids: dict[str, int]) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 8, 8], "mrope_interleaved": True}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    # vLLM's attention for CPUs requires heads of 64 dimensions.
    size = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 64}
    text = {"vocab_size": vocabulary, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 128}
    vision |= {"spatial_merge_size": 2, "num_position_embeddings": 64, **_PATCH}
    config: Any = Qwen3VLConfig
    return config(text_config=text | size | ends, vision_config={**vision, "deepstack_visual_indexes": [0]}, **ids, **ends)


def _write_processor(folder: Path) -> None:
    def write(name: str, content: dict[str, Any]) -> None:
        (folder / name).write_text(json.dumps(content))

    common = {"merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **_PATCH}
    bounds = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    write("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor", "size": bounds, **common})
    video_bounds = {"shortest_edge": 2 * 16 * 16, "longest_edge": 16 * 64 * 64}
    write("video_preprocessor_config.json", {"video_processor_type": "Qwen3VLVideoProcessor", "size": video_bounds, **common})
    write("processor_config.json", {"processor_class": "Qwen3VLProcessor"})
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
