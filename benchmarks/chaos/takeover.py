"""How long the chunks of a dead or stopped worker wait until somebody else leases them."""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from common.ledger.keys import run_keys
from common.ledger.ledger import Ledger

Place = tuple[str, int]
TAKEOVER_LIMIT_S = 20.0  # the second promise


@dataclass(frozen=True)
class Orphan:
    """A chunk whose holder died or was stopped.  ``alone``: its model had no other worker at that moment."""

    token: str
    worker: str
    since: float
    is_dead: bool
    alone: bool


class Takeovers:
    """Watches who holds what, by the tokens of the leases: a worker that comes back under its old name is somebody else.

    ``took_s`` lists the seconds of each takeover, ``took_alone_s`` those for which a worker had to start first; ``slow`` describes
    those over the limit.  A chunk that its holder committed after all does not count, nor one whose run Redis was made to
    forget meanwhile.  ``woke_first`` counts those in ``took_s`` that waited until a stopped holder woke up.
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
        """Look once at who holds what in these runs, which are those that have not ended.  Raises ``redis.RedisError``."""
        holders: dict[Place, tuple[str, str]] = {}
        done: dict[str, bytes] = {}
        for run_id in run_ids:
            with self._ledger.client.pipeline() as pipe:
                pipe.hgetall(run_keys(run_id).holders)
                pipe.get(run_keys(run_id).chunks)
                held, done_chunks = pipe.execute()
            done[run_id] = done_chunks or b""  # nothing: somebody has Redis forget the run just now
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
        """Count from ``since`` (monotonic) for all that a worker holds, by the latest poll."""
        for place, (token, holder) in self._holders.items():
            if holder == worker:
                self._orphans[place] = Orphan(token, worker, since, is_dead, alone)

    def note_waking(self, worker: str) -> None:
        """Count what a stopped worker, awake again, still holds with the time it has waited: a takeover would take longer."""
        held = {place: orphan for place, orphan in self._orphans.items() if orphan.worker == worker and not orphan.is_dead}
        for (run_id, chunk), orphan in held.items():
            if not orphan.alone:
                self._count(run_id, chunk, orphan, time.monotonic(), "the same, awake again")
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
        """Return how long chunks wait that nobody has taken over yet."""
        return [time.monotonic() - orphan.since for orphan in self._orphans.values()]


def find_percentile(values: list[float], share: float) -> float | None:
    """Return the smallest value that at least ``share`` of the values do not exceed; ``None`` of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
