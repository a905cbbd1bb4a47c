"""The rows of a batch during generation: how each row samples its next token, and when it ends."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, StoppingCriteria, TopPLogitsWarper

from common.spec.models import SamplingParams
from workers.engines.hf.batching import Waiting


class RowSampler(LogitsProcessor):
    """Samples each row with its own temperature, top_p and seed, in a batch that is decoded greedily.

    The argmax of logits plus Gumbel noise is a sample of their softmax (Gumbel 1954; Maddison et al. 2014). So a request's
    answer does not depend on the other requests of its batch, up to rounding, and requests with any seeds can share a batch.
    """

    def __init__(self, rows: Sequence[SamplingParams], device: torch.device) -> None:
        self._rows = [
            (row, settings.temperature, _make_top_p_filter(settings.top_p), _seed_generator(settings.seed, device))
            for row, settings in enumerate(rows)
            if settings.temperature > 0
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores, of shape ``(batch, vocabulary)``, with noise added to the rows that sample."""
        for row, temperature, top_p_filter, generator in self._rows:
            logits = scores[row : row + 1] / temperature
            if top_p_filter:
                logits = top_p_filter(input_ids, logits)
            logits = logits[0]
            noise = torch.empty_like(logits).exponential_(generator=generator)
            scores[row] = logits - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
        return scores


class CancelledRows(StoppingCriteria):
    """Ends each row whose future is done, because no caller awaits its answer."""

    def __init__(self, batch: Sequence[Waiting]) -> None:
        self._futures = [waiting.future for waiting in batch]

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        """Return one boolean per row, shape ``(batch,)``: whether the row ends now."""
        del scores, kwargs
        return torch.tensor([future.done() for future in self._futures], device=input_ids.device)


class FullRows(StoppingCriteria):
    """Ends each row that has reached its maximum number of new tokens. ``prompt_length`` is the padded length of the prompts."""

    def __init__(self, most_tokens: Sequence[int], prompt_length: int) -> None:
        self._most_tokens = most_tokens
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        """Return one boolean per row, shape ``(batch,)``: whether the row ends now."""
        del scores, kwargs
        new_tokens = input_ids.shape[1] - self._prompt_length
        return torch.tensor([new_tokens >= most for most in self._most_tokens], device=input_ids.device)


def _make_top_p_filter(top_p: float) -> TopPLogitsWarper | None:
    """Return the top-p filter, or ``None`` if it would keep all tokens: the filter sorts the vocabulary for every token."""
    return TopPLogitsWarper(top_p) if top_p < 1 else None


def _seed_generator(seed: int | None, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
