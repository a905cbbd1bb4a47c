"""The number of positions of a model, which bounds its context."""

from typing import Any

from common.errors import ConfigError
from common.spec.models import ModelProfile

_UNLIMITED = 10**9


def find_context(profile: ModelProfile, chosen: int | None, positions: int | None, tokenizer: Any) -> int:
    """Return the context in tokens: the option ``max_model_len`` (``chosen``) if set, else the smallest that the weights state.

    Raises ``ConfigError`` if the weights do not state it, or if ``max_model_len`` is more than the model's ``positions``.
    """
    where = f"profile {profile.name}: engine_options: max_model_len"
    if chosen is not None:
        if positions is not None and chosen > positions:
            raise ConfigError(f"{where}: found {chosen}, but the model has {positions} positions; expected at most {positions}")
        return chosen
    # transformers sets a huge number if the tokenizer does not state one.
    stated = [tokens for tokens in (positions, tokenizer.model_max_length) if tokens and tokens < _UNLIMITED]
    if not stated:
        raise ConfigError(f"{where}: the weights do not state the context of the model; set the option to its number of tokens")
    return int(min(stated))


def find_positions(config: Any) -> int | None:
    """Return the number of positions of the language model, extended by RoPE scaling, or ``None`` if it is not stated."""
    text_config = config.get_text_config()
    positions: int | None = getattr(text_config, "max_position_embeddings", None)
    rope = getattr(text_config, "rope_parameters", None) or {}
    if positions is None or "factor" not in rope:
        return positions
    # Some models state the extended number of positions, other models the original number.
    return max(positions, int(rope["factor"] * rope.get("original_max_position_embeddings", positions)))
