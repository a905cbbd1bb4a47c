"""Measure how long the chunks of a dead or stopped worker wait until another worker leases them."""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from common.ledger.keys import run_keys
from common.ledger.ledger import Ledger

Place = tuple[str, int]
TAKEOVER_LIMIT_S = 20.0  # other workers start the chunks of a dead worker within this time (README.md)


@dataclass(frozen=True)
class Orphan:
    """A chunk whose holder died or was stopped. ``alone`` means that the model had no other worker at that moment."""

    token: str
    worker: str
    since: float
    is_dead: bool
    alone: bool


class Takeovers:
    """Tracks the holders of chunks by the tokens of their leases.

    Holders are identified by token and not by name: a worker that restarts under the same name is a different holder.

    ``took_s`` lists the durations of takeovers in seconds. ``took_alone_s`` lists the takeovers that had to wait for a worker to
    start. ``slow`` describes the takeovers over the limit. A chunk does not count if its holder committed it, or if its run was
    deleted from Redis. ``woke_first`` counts the chunks in ``took_s`` that their holder still held when it resumed.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.took_s: list[float] = []
        self.took_alone_s: list[float] = []
        self.woke_first = 0
        self.slow: list[str] = []
        self._ledger = ledger
        self._holders: dict[Place, tuple[str, str]] = {}
        self._orphans: dict[Place, Orphan] = {}

    def poll(self, run_ids: list[str]) -> None:
        """Read the holders of all chunks in these runs. ``run_ids`` must contain every run that has not ended.

        Raises ``redis.RedisError``.
        """
        holders: dict[Place, tuple[str, str]] = {}
        done: dict[str, bytes] = {}
        for run_id in run_ids:
            with self._ledger.client.pipeline() as pipe:
                pipe.hgetall(run_keys(run_id).holders)
                pipe.get(run_keys(run_id).chunks)
                held, done_chunks = pipe.execute()
            done[run_id] = done_chunks or b""  # None: a fault has deleted the run from Redis
            for chunk, holder in held.items():
                token, _, worker = holder.decode().partition(" ")
                holders[run_id, int(chunk)] = token, worker
        self._holders = holders
        now = time.monotonic()
        for (run_id, chunk), orphan in list(self._orphans.items()):
            holder = holders.get((run_id, chunk))
            is_done = run_id not in done or done[run_id][chunk : chunk + 1] == b"\1"
            if (holder and holder[0] != orphan.token) or (is_done and orphan.is_dead):
                self._count(run_id, chunk, orphan, now, "the end of its chunk" if holder is None else holder[1])
            elif not is_done:
                continue
            del self._orphans[run_id, chunk]

    def note_loss(self, worker: str, since: float, *, is_dead: bool, alone: bool) -> None:
        """Start measuring takeovers of all chunks that a worker held at the latest poll. ``since`` is in monotonic seconds."""
        for place, (token, holder) in self._holders.items():
            if holder == worker:
                self._orphans[place] = Orphan(token, worker, since, is_dead, alone)

    def note_waking(self, worker: str) -> None:
        """Record the waiting time of the chunks that a stopped worker still holds when it resumes.

        The time is a lower bound of a takeover's duration.
        """
        held = {place: orphan for place, orphan in self._orphans.items() if orphan.worker == worker and not orphan.is_dead}
        for (run_id, chunk), orphan in held.items():
            if not orphan.alone:
                self._count(run_id, chunk, orphan, time.monotonic(), "the same worker, resumed")
                self.woke_first += 1
        self._forget(list(held))

    def _count(self, run_id: str, chunk: int, orphan: Orphan, now: float, successor: str) -> None:
        waited_s = now - orphan.since
        (self.took_alone_s if orphan.alone else self.took_s).append(waited_s)
        if waited_s > TAKEOVER_LIMIT_S and not orphan.alone:
            at = datetime.now(UTC).strftime("%H:%M:%S")
            self.slow.append(f"{at} UTC: chunk {chunk} of {run_id}, from {orphan.worker} to {successor}: {waited_s:.1f} s")

    def forget_run(self, run_id: str) -> None:
        self._forget([place for place in self._orphans if place[0] == run_id])

    def _forget(self, places: list[Place]) -> None:
        for place in places:
            del self._orphans[place]

    @property
    def waiting_s(self) -> list[float]:
        """The waiting times in seconds of chunks that no worker has taken over yet."""
        return [time.monotonic() - orphan.since for orphan in self._orphans.values()]


def find_percentile(values: list[float], share: float) -> float | None:
    """Return the smallest value that at least ``share`` of the values do not exceed, or ``None`` if there are no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
