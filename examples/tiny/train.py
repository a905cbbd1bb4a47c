"""Train the tiny model from scratch: ``python -m examples.tiny.train``. It takes less than ten minutes on one GPU."""

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

from examples.tiny.architecture import build_model, build_processor, save_model, train_tokenizer
from examples.tiny.corpus import IGNORED, Batch, Corpus, draw_example

MODEL = Path(__file__).resolve().parent / "model"
TOKENIZER_EXAMPLES = 20_000

_PEAK_RATE = 1e-3
_WARM_UP = 0.03
_DECAY = 0.1
_PRINT_EVERY = 200


def train(model: LlavaForConditionalGeneration, loader: DataLoader[Any], *, seconds: float, device: str) -> int:
    """Train the model in place for ``seconds`` and return the number of steps.

    The learning rate depends on the share of ``seconds`` that has passed. Raises ``SystemExit`` if the loss is not finite.
    """
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.95), fused=device == "cuda")
    model.train()
    total, started, step = torch.zeros((), device=device), time.monotonic(), 0
    for batch in loader:
        used = (time.monotonic() - started) / seconds
        if used >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * schedule(used)
        with torch.autocast(device, torch.bfloat16):
            loss = compute_loss(model, batch, device)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, total = step + 1, total + loss.detach()
        if step % _PRINT_EVERY == 0:
            mean = total.item() / _PRINT_EVERY
            print(f"step {step:6}  {time.monotonic() - started:6.1f} s  loss {mean:.4f}", flush=True)
            if not math.isfinite(mean):
                raise SystemExit(f"step {step}: the loss is not finite; lower the peak learning rate, _PEAK_RATE")
            total.zero_()
    return step


def schedule(used: float) -> float:
    """Return the learning rate as a share of its peak: a linear warm-up, then a cosine decay to zero.

    ``used`` is the share of the training time that has passed, from 0 to 1.
    """
    return used / _WARM_UP if used < _WARM_UP else (1 + math.cos(math.pi * (used - _WARM_UP) / (1 - _WARM_UP))) / 2


def compute_loss(model: LlavaForConditionalGeneration, batch: Batch, device: str) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens.

    Rows are padded on the right and attention is causal, so an attention mask is not needed.
    """
    ids, labels = batch.ids.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
    pixels = batch.pixels.to(device, non_blocking=True).float() / 127.5 - 1
    hidden = model.model(input_ids=ids, pixel_values=pixels).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    trained = targets != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[trained]).float(), targets[trained])


def main() -> None:
    """Train the model and save it."""
    parser = argparse.ArgumentParser(description="Train the tiny model from scratch.")
    parser.add_argument("--seconds", type=float, default=450, help="training time in seconds")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=2025)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)

    rng = Random(f"tokenizer {arguments.seed}")
    texts = (" ".join(draw_example(rng)[:2]) for _ in range(TOKENIZER_EXAMPLES))
    tokenizer = train_tokenizer(text.replace("<image>", "") for text in texts)
    model = build_model(tokenizer)
    torch.nn.Module.to(model, device)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights, {len(tokenizer)} tokens, on {device}", flush=True)
    workers = max((os.cpu_count() or 1) - 1, 1)
    corpus = Corpus(tokenizer, arguments.batch_size, arguments.seed)
    loader = DataLoader(corpus, batch_size=None, num_workers=workers, prefetch_factor=8, pin_memory=device == "cuda")
    started = time.monotonic()
    steps = train(model, loader, seconds=arguments.seconds, device=device)
    save_model(model, build_processor(tokenizer), arguments.out)
    print(f"{steps} steps, {steps * arguments.batch_size:,} examples, {time.monotonic() - started:.0f} s; saved in {arguments.out}")


if __name__ == "__main__":
    main()
