"""The memory budget is not exceeded, is granted in FIFO order and is restored after each failure."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from workers.media.memory_budget import MemoryBudget


async def settle() -> None:
    """Run all ready tasks."""
    for _ in range(5):
        await asyncio.sleep(0)


async def begin(*waits: Coroutine[Any, Any, int]) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await settle()
    return tasks


def granted(tasks: list["asyncio.Task[int]"]) -> list[bool]:
    return [task.done() and not task.cancelled() for task in tasks]


def test_requests_are_granted_in_fifo_order() -> None:
    """A small request waits behind a large request."""

    async def run() -> None:
        budget = MemoryBudget(10)
        tasks = await begin(budget.take(6), budget.take(6), budget.take(1), budget.take(4))
        assert granted(tasks) == [True, False, False, False]
        budget.give_back(2)
        await settle()
        assert granted(tasks) == [True, True, False, False]
        budget.give_back(4)
        await settle()
        assert granted(tasks) == [True, True, True, False]
        budget.give_back(6)
        await settle()
        assert [task.result() for task in tasks] == [6, 6, 1, 4]
        budget.give_back(5)
        assert budget.free_bytes == 10

    asyncio.run(run())


def test_oversized_request_gets_the_whole_budget() -> None:
    async def run() -> None:
        budget = MemoryBudget(10)
        tasks = await begin(budget.take(1), budget.take(1000), budget.take(1))
        assert granted(tasks) == [True, False, False]
        budget.give_back(1)
        await settle()
        assert granted(tasks) == [True, True, False]
        assert (tasks[1].result(), budget.free_bytes) == (10, 0)
        budget.give_back(10)
        await settle()
        assert granted(tasks) == [True, True, True]

    asyncio.run(run())


@pytest.mark.parametrize("position", [0, 1])
def test_cancelled_request_does_not_block_the_next(position: int) -> None:
    async def run() -> None:
        budget = MemoryBudget(10)
        await budget.take(9)
        tasks = await begin(budget.take(5), budget.take(5), budget.take(1))
        tasks[position].cancel()
        await settle()
        assert granted(tasks) == [False, False, False]
        tasks[1 - position].cancel()
        await settle()
        assert granted(tasks) == [False, False, True]

    asyncio.run(run())


def test_cancelled_grant_is_returned() -> None:
    async def run() -> None:
        budget = MemoryBudget(10)
        await budget.take(10)
        (task,) = await begin(budget.take(10))
        budget.give_back(10)
        task.cancel()
        await settle()
        assert task.cancelled()
        assert budget.free_bytes == 10

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(5))
def test_granted_shares_never_exceed_the_budget(seed: int) -> None:
    chance = random.Random(seed)

    async def hold(budget: MemoryBudget) -> None:
        share = await budget.take(chance.randint(1, 150))
        try:
            for _ in range(chance.randint(0, 4)):
                assert 0 <= budget.free_bytes <= budget.capacity_bytes - share
                await asyncio.sleep(0)
        finally:
            budget.give_back(share)

    async def run() -> None:
        budget = MemoryBudget(100)
        tasks = [asyncio.create_task(hold(budget)) for _ in range(300)]
        while not all(task.done() for task in tasks):
            if chance.random() < 0.2:
                chance.choice(tasks).cancel()
            await asyncio.sleep(0)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {type(None), asyncio.CancelledError}
        assert budget.free_bytes == 100

    asyncio.run(run())
