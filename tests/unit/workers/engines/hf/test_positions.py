"""Context length of a model from the option, the configuration and the tokenizer."""

from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import ConfigError
from tests.support.engines.requests import make_profile
from workers.engines.hf.positions import find_context, find_positions

UNSET = int(1e30)  # the default of transformers
YARN = {"rope_type": "yarn", "factor": 4.0}


def make_config(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(get_text_config=lambda: SimpleNamespace(**fields))


@pytest.mark.parametrize(
    ("chosen", "positions", "stated", "context"),
    [
        (None, 2048, 2048, 2048),
        (None, 2048, UNSET, 2048),
        (None, 32768, 4096, 4096),
        (None, None, 4096, 4096),
        (1024, 2048, 2048, 1024),
        (2048, 2048, 1024, 2048),
        (9000, None, UNSET, 9000),
    ],
)
def test_context_is_option_or_smallest_stated_limit(chosen: int | None, positions: int | None, stated: int, context: int) -> None:
    assert find_context(make_profile("hf"), chosen, positions, SimpleNamespace(model_max_length=stated)) == context


def test_option_beyond_positions_is_config_error() -> None:
    with pytest.raises(ConfigError, match=r"profile tried: engine_options: max_model_len: found 2049.*expected at most 2048"):
        find_context(make_profile("hf"), 2049, 2048, SimpleNamespace(model_max_length=UNSET))


def test_unknown_context_is_config_error() -> None:
    with pytest.raises(ConfigError, match="profile tried: engine_options: max_model_len: the weights do not state"):
        find_context(make_profile("hf"), None, None, SimpleNamespace(model_max_length=UNSET))


@pytest.mark.parametrize(
    ("fields", "positions"),
    [
        ({}, None),
        ({"max_position_embeddings": 2048}, 2048),
        ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default"}}, 2048),
        ({"max_position_embeddings": 32768, "rope_parameters": YARN}, 131072),
        ({"max_position_embeddings": 32768, "rope_parameters": {**YARN, "original_max_position_embeddings": 32768}}, 131072),
        ({"max_position_embeddings": 131072, "rope_parameters": {**YARN, "original_max_position_embeddings": 32768}}, 131072),
    ],
)
def test_rope_scaling_extends_the_positions(fields: dict[str, Any], positions: int | None) -> None:
    assert find_positions(make_config(**fields)) == positions
