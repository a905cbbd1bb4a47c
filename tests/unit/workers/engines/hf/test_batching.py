"""Batch formation, the batch limit and the end of an answer, without a model."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.spec.models import SamplingParams
from workers.engines.base import Generation, Message, Request
from workers.engines.hf.batching import BatchLimit, Waiting, cut_at_end, cut_at_stop, form_batch

PIXEL = Image.new("RGB", (1, 1))


@pytest.fixture(scope="module")
def future() -> Iterator[asyncio.Future[Generation]]:
    loop = asyncio.new_event_loop()
    yield loop.create_future()
    loop.close()


def make_waiting(future: asyncio.Future[Generation], length: int, *, max_tokens: int = 8, images: int = 0) -> Waiting:
    settings = SamplingParams(max_tokens=max_tokens)
    messages = (Message("user", tuple(range(images))),)
    return Waiting(Request("r", messages, (PIXEL,) * images, settings), "x" * 4 * length, future)


@given(
    rows=st.lists(st.tuples(st.integers(0, 500), st.sampled_from([8, 16]), st.integers(0, 1)), min_size=1, max_size=60),
    limit=st.integers(1, 20),
)
def test_batch_contains_oldest_and_compatible_requests(
    future: asyncio.Future[Generation], rows: list[tuple[int, int, int]], limit: int
) -> None:
    waiting = [make_waiting(future, length, max_tokens=most, images=images) for length, most, images in rows]
    batch = form_batch(waiting, limit)
    peers = [one for one in waiting if one.key == waiting[0].key]
    assert waiting[0] in batch
    assert {one.key for one in batch} == {waiting[0].key}
    assert len(batch) == len(set(batch)) == min(limit, len(peers))
    assert [one.length for one in batch] == sorted(one.length for one in batch)


@given(rows=st.lists(st.tuples(st.integers(0, 500), st.sampled_from([8, 16])), min_size=1, max_size=60), limit=st.integers(1, 9))
def test_every_request_is_batched_once(future: asyncio.Future[Generation], rows: list[tuple[int, int]], limit: int) -> None:
    waiting = [make_waiting(future, length, max_tokens=most) for length, most in rows]
    remaining, batched = list(waiting), []
    while remaining:
        batch = form_batch(remaining, limit)
        batched += batch
        remaining = [one for one in remaining if one not in batch]
    assert len(batched) == len(waiting)
    assert set(batched) == set(waiting)


def test_requests_of_similar_length_are_batched(future: asyncio.Future[Generation]) -> None:
    lengths = [50, 1, 49, 400, 51, 2, 300]
    waiting = [make_waiting(future, length) for length in lengths]
    assert [one.length for one in form_batch(waiting, 3)] == [49, 50, 51]


def test_images_count_towards_length(future: asyncio.Future[Generation]) -> None:
    image = Image.new("RGB", (280, 280))
    one = Waiting(Request("r", (Message("user", (0, "x")),), (image,), SamplingParams()), "x" * 40, future)
    assert one.length == 10 + 100


def test_greedy_and_sampled_requests_share_a_batch(future: asyncio.Future[Generation]) -> None:
    greedy = Waiting(Request("g", (), (), SamplingParams(max_tokens=8)), "", future)
    sampled = Waiting(Request("s", (), (), SamplingParams(max_tokens=8, temperature=1.0, seed=3)), "", future)
    assert form_batch([greedy, sampled], 2) == [greedy, sampled]


def test_limit_halves_and_recovers_slowly() -> None:
    limit = BatchLimit(32)
    limit.shrink(32)
    limit.shrink(16)
    assert limit.size == 8
    for _ in range(BatchLimit.GROW_AFTER - 1):
        limit.succeed(8)
    limit.succeed(3)  # only full batches raise the limit
    assert limit.size == 8
    limit.succeed(8)
    assert limit.size == 9


def test_limit_stays_between_one_and_maximum() -> None:
    limit = BatchLimit(2)
    limit.shrink(1)
    assert limit.size == 1
    for _ in range(10 * BatchLimit.GROW_AFTER):
        limit.succeed(limit.size)
    assert limit.size == 2


def test_limit_is_half_of_smallest_failed_batch() -> None:
    limit = BatchLimit(32)
    limit.shrink(10)
    limit.shrink(32)  # an older, larger batch must not raise the limit
    assert limit.size == 5


def test_answer_ends_before_its_end_token() -> None:
    assert cut_at_end([5, 6, 2, 0, 0], {2, 0}) == [5, 6]
    assert cut_at_end([5, 6, 7], {2, 0}) == [5, 6, 7]
    assert cut_at_end([2], {2}) == []


def test_answer_ends_before_first_stop_string() -> None:
    assert cut_at_stop("one two three", ("three", "two")) == ("one ", True)
    assert cut_at_stop("one", ("two",)) == ("one", False)
    assert cut_at_stop("one", ()) == ("one", False)
