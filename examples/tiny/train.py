"""Train the tiny model from scratch: ``python -m examples.tiny.train``, on one GPU in less than ten minutes."""

import argparse
import math
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import LlavaForConditionalGeneration

from examples.tiny.architecture import IMAGE_TOKENS, build_model, build_processor, save_model, train_tokenizer
from examples.tiny.corpus import IGNORED, IMAGE_FROM, Batch, Corpus, draw_example

MODEL = Path(__file__).resolve().parent / "model"
TOKENIZER_EXAMPLES = 20_000

_PEAK_RATE = 6e-4
_WARM_UP = 0.03
_DECAY = 0.1
_PRINT_EVERY = 200
_MOST_SKIPPED = 20


def train(model: LlavaForConditionalGeneration, loader: DataLoader[Any], *, seconds: float, device: str) -> int:
    """Train in place for ``seconds`` and return the number of steps; the learning rate follows the time that is used up.

    A step whose loss or gradient is no number is left out, as it would spoil every weight for good.
    """
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.95), fused=device == "cuda")
    model.train()
    total, started, step, skipped = 0.0, time.monotonic(), 0, 0
    for batch in loader:
        used = (time.monotonic() - started) / seconds
        if used >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * schedule(used)
        with torch.autocast(device, torch.bfloat16):
            loss = compute_loss(model, batch, device)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(loss + norm):
            optimizer.step()
            step, skipped, total = step + 1, 0, total + loss.item()
        else:
            skipped += 1
            print(f"step {step:6}  left out: loss {loss.item()}, gradient {norm.item()}", flush=True)
        optimizer.zero_grad(set_to_none=True)
        if skipped == _MOST_SKIPPED:
            raise SystemExit(f"{skipped} steps in a row gave no number: lower the peak learning rate, _PEAK_RATE")
        if step % _PRINT_EVERY == 0 and not skipped:
            print(f"step {step:6}  {time.monotonic() - started:6.1f} s  loss {total / _PRINT_EVERY:.4f}", flush=True)
            total = 0.0
    return step


def schedule(used: float) -> float:
    """Return the learning rate's share of its peak: a short rise, then a cosine down to zero."""
    return used / _WARM_UP if used < _WARM_UP else (1 + math.cos(math.pi * (used - _WARM_UP) / (1 - _WARM_UP))) / 2


def compute_loss(model: LlavaForConditionalGeneration, batch: Batch, device: str) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens.

    The image's features go where every prompt has its image: the model's own search for the place makes the GPU wait for
    Python.  Rows are padded on the right and attention looks to the left, so that no mask is needed.
    """
    ids, labels, pixels = (part.to(device, non_blocking=True) for part in batch)
    features = torch.stack(model.get_image_features(pixels.float() / 127.5 - 1).pooler_output)
    words = model.get_input_embeddings()(ids)
    rest = IMAGE_FROM + IMAGE_TOKENS
    embedded = torch.cat([words[:, :IMAGE_FROM], features.to(words.dtype), words[:, rest:]], dim=1)
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, rest - 1 : -1]).float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, rest:].flatten(), ignore_index=IGNORED)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description="Train the tiny model from scratch.")
    parser.add_argument("--seconds", type=float, default=450, help="how long to train")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=2025)
    asked = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(asked.seed)

    rng = Random(f"tokenizer {asked.seed}")
    texts = (" ".join(draw_example(rng)[:2]) for _ in range(TOKENIZER_EXAMPLES))
    tokenizer = train_tokenizer(text.replace("<image>", "") for text in texts)
    model = build_model(tokenizer)
    torch.nn.Module.to(model, device)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights, {len(tokenizer)} tokens, on {device}", flush=True)
    workers = max((os.cpu_count() or 1) - 1, 1)
    corpus = Corpus(tokenizer, asked.batch_size, asked.seed)
    loader = DataLoader(corpus, batch_size=None, num_workers=workers, prefetch_factor=8, pin_memory=device == "cuda")
    started = time.monotonic()
    steps = train(model, loader, seconds=asked.seconds, device=device)
    save_model(model, build_processor(tokenizer), asked.out)
    print(f"{steps} steps, {steps * asked.batch_size:,} examples, {time.monotonic() - started:.0f} s; saved in {asked.out}")


if __name__ == "__main__":
    main()
