"""Rejection of prompts that fill the context, and the bound on the work for a long text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SampleError
from tests.support.engines.requests import make_request
from workers.engines.context import PIECE_CHARACTERS, check_long_text, check_prompt_tokens, has_long_text


@pytest.mark.parametrize(("prompt_tokens", "is_rejected"), [(0, False), (99, False), (100, True), (101, True), (10**9, True)])
def test_prompt_needs_room_for_one_token(prompt_tokens: int, is_rejected: bool) -> None:
    if not is_rejected:
        check_prompt_tokens(prompt_tokens, 100)
        return
    with pytest.raises(
        SampleError, match=f"the prompt has {prompt_tokens} tokens, but the context of the model has 100; "
    ) as caught:
        check_prompt_tokens(prompt_tokens, 100)
    assert caught.value.code == "too_long"


@pytest.mark.parametrize(("characters", "is_long"), [(0, False), (PIECE_CHARACTERS, False), (PIECE_CHARACTERS + 1, True)])
def test_long_text_is_found_in_any_message(characters: int, is_long: bool) -> None:
    assert has_long_text(make_request(text="x" * characters)) is is_long


@given(words=st.integers(0, 200_000), length=st.integers(1, 12), context_tokens=st.integers(1, 300_000))
def test_text_that_fits_is_not_rejected(words: int, length: int, context_tokens: int) -> None:
    counted: list[str] = []

    def count(piece: str) -> int:
        counted.append(piece)
        return len(piece.split())

    text = ("x" * length + " ") * words
    try:
        check_long_text(text, context_tokens, count)
    except SampleError as fault:
        assert words > context_tokens
        stated = int(str(fault).removeprefix("the prompt has about ").partition(" ")[0])
        assert 0.9 * words <= stated <= 1.1 * words + 10
    most = 2 * context_tokens * (length + 1) + 2 * PIECE_CHARACTERS
    assert sum(map(len, counted)) <= most
    assert max(map(len, counted), default=0) <= PIECE_CHARACTERS
