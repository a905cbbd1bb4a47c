"""A small run for tests of the ledger: its plan, its chunks and their parts."""

from typing import Any

import pytest

from common.ledger.ledger import Ledger
from common.records import Chunk, DatasetCounts, Outcome, Part, Plan, Status

RUN = "tiny-0123456789ab"
DATASETS = {"digits": 0, "shapes": 1}


def make_plan(chunks: int = 3, size: int = 4) -> Plan:
    counts = (
        DatasetCounts(name="digits", rows=6, unique=6, duplicates=0),
        DatasetCounts(name="shapes", rows=6, unique=6, duplicates=0),
    )
    return Plan(run_id=RUN, samples=chunks * size, chunks=chunks, datasets=counts)


def make_chunk(number: int, size: int = 4) -> Chunk:
    return Chunk(
        run_id=RUN, number=number, wave=1, first=number * size, count=size,
        samples_key="", offset=0, length=1, crc32=0, datasets=(2, 2),
    )  # fmt: skip


def make_part(number: int, statuses: list[Status]) -> Part:
    outcomes = tuple(
        Outcome(
            sample_id=f"{number}-{at}",
            dataset="digits" if at % 2 else "shapes",
            index=at,
            model="tiny",
            status=status,
            output_tokens=5,
        )
        for at, status in enumerate(statuses)
    )
    return Part(run_id=RUN, chunk=number, key="", outcomes=outcomes)


def lose_answers(monkeypatch: pytest.MonkeyPatch, *commands: str) -> None:
    """Drop the first response to each call of these commands, so that the client sends the command again."""
    call = Ledger._call  # noqa: SLF001  # the last function before the network

    def call_again(self: Ledger, run_id: str, chunk: int | None, *arguments: Any) -> Any:
        if arguments[0] in commands:
            call(self, run_id, chunk, *arguments)
        return call(self, run_id, chunk, *arguments)

    monkeypatch.setattr(Ledger, "_call", call_again)
