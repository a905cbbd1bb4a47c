"""The ledger: the Redis record of a run's chunks, leases, journals and counts.  Its keys are explained in ``ledger.lua``.

Correctness rests on this module alone; a Celery message only says where to look.  All times are by the clock of Redis,
so a worker whose own clock is off changes nothing.
"""

import secrets
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.client import Pipeline

from common.errors import LeaseLost
from common.ledger.connection import connect_redis as connect_redis  # workers.app imports it from here
from common.ledger.keys import journal_key, run_keys, runs_key, trial_key
from common.records import STATE_BYTES, Chunk, Lease, Outcome, Part, Plan, RunState
from common.redaction import mask_text
from common.settings import Settings
from common.spec.models import AbortIf

_SCRIPT = (Path(__file__).parent / "ledger.lua").read_text(encoding="utf-8")
# Points of blame from which a chunk is a suspect; a holder that fell silent brings one (see ``ledger.lua``).
SUSPECT = 2
_ENDED = (None, RunState.DONE.encode(), RunState.CANCELLED.encode())  # None: expired, or forgotten
_STATE_NAMES = {byte: name for name, byte in STATE_BYTES.items()}


@dataclass(frozen=True, slots=True)
class Commit:
    """One step of progress: when (Unix seconds by Redis), how many samples, how many output tokens."""

    at_s: float
    samples: int
    tokens: int


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A run as the ledger has it, read in one transaction.

    ``counts`` maps (dataset number, state name) to samples; ``holders`` maps a leased chunk to its worker; ``progress``
    lists recent commits, newest first; ``started_s`` is when the first chunk was leased; ``now_s`` is the time by Redis.
    """

    model: str
    state: RunState
    reason: str
    samples: int
    chunks: int
    chunks_done: int
    started_s: float
    changed_s: float
    now_s: float
    counts: Mapping[tuple[int, str], int]
    holders: Mapping[int, str]
    progress: Sequence[Commit]


class Ledger:
    """The commands of ``ledger.lua``, with records in and out.  Safe to share between threads."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self._settings = settings
        self._script = client.register_script(_SCRIPT)

    def open_run(self, plan: Plan, model: str, *, chunks: int | None = None) -> bool:
        """Record a planned run as running.  Returns whether it was unknown before.

        ``chunks`` counts those of all waves; a run that the ledger knows with fewer grows, and goes on if it was done.
        """
        count = chunks or plan.chunks
        token = secrets.token_hex(8)
        opened = self._call(plan.run_id, None, "open", model, plan.samples, count, token, self._settings.retention_s)
        if not opened:
            self._call(plan.run_id, None, "extend", count, self._settings.retention_s)
        self.client.sadd(runs_key(model), plan.run_id)
        return bool(opened)

    def set_abort(self, run_id: str, abort_if: AbortIf | None) -> None:
        """Pause the run once more than this fails; ``None`` lets it go on whatever fails."""
        given = (abort_if.failed_rate, abort_if.after) if abort_if else ("", "")
        self._call(run_id, None, "set_abort", *given)

    def acquire(self, run_id: str, chunk: int, worker: str) -> Lease | None:
        """Lease a chunk for ``lease_s``, or return ``None`` if it is done, held by another or not of a run that goes on."""
        token = secrets.token_hex(8)
        answer = self._call(run_id, chunk, "acquire", chunk, token, worker, self._lease_ms, self._settings.retention_s, SUSPECT)
        if answer not in (b"leased", b"suspect"):
            return None
        return Lease(run_id=run_id, chunk=chunk, token=token, worker=worker, suspect=answer == b"suspect")

    def renew(self, run_id: str, leases: Sequence[Lease]) -> list[Lease]:
        """Prolong leases of one run by ``lease_s`` from now; return those that are lost."""
        named = [text for lease in leases for text in (lease.chunk, lease.token)]
        renewed = self._call(run_id, None, "renew", self._lease_ms, self._settings.retention_s, *named)
        return [lease for lease, kept in zip(leases, renewed, strict=True) if not kept]

    def journal(self, lease: Lease, outcomes: Iterable[Outcome]) -> None:
        """Keep outcomes of a leased chunk, so that a successor does not redo them.  Raises ``LeaseLost``."""
        entries = [text for outcome in outcomes for text in (outcome.sample_id, outcome.model_dump_json(exclude_defaults=True))]
        if entries and not self._call(
            lease.run_id, lease.chunk, "journal", lease.chunk, lease.token, self._settings.retention_s, *entries
        ):
            raise LeaseLost(f"chunk {lease.chunk} of {lease.run_id} went to another worker")

    def read_journal(self, lease: Lease) -> dict[str, Outcome]:
        """Return the outcomes that earlier holders of the chunk have reached, by sample id."""
        entries: Any = self.client.hgetall(journal_key(lease.run_id, lease.chunk))
        return {sample_id.decode(): Outcome.model_validate_json(text) for sample_id, text in entries.items()}

    def begin_trial(self, lease: Lease, sample_id: str) -> int:
        """Note that a sample of a suspect chunk runs alone now; return how many holders were lost while it did so before.

        The note goes with the sample's journal entry.  Raises ``LeaseLost``.
        """
        crashes: int = self._call(
            lease.run_id, lease.chunk, "begin_trial", lease.chunk, lease.token, sample_id, self._settings.retention_s
        )
        if crashes < 0:
            raise LeaseLost(f"chunk {lease.chunk} of {lease.run_id} went to another worker")
        return crashes

    def absolve(self, lease: Lease) -> None:
        """Take the suspicion off a chunk: the sample that was to blame is known."""
        self._call(lease.run_id, lease.chunk, "absolve", lease.chunk, lease.token)

    def commit(self, chunk: Chunk, part: Part, datasets: Mapping[str, int], *, is_progress: bool = True) -> int:
        """Count a part's outcomes and close its chunk, whoever held it; return how many samples rose.

        ``datasets`` maps a dataset's name to its number in the plan; without ``is_progress`` it does not count for the
        rate.  Raises ``LeaseLost`` when the ledger does not know the run, or not that it has grown to this chunk: the part stays
        in the store, and a rebuild or whoever takes the chunk over finds it.
        """
        outcomes = part.outcomes
        failures = Counter(outcome.error_code for outcome in outcomes if outcome.status == "failed").most_common(1)
        raised: int = self._call(
            chunk.run_id,
            chunk.number,
            "commit",
            chunk.number,
            struct.pack(f"<{len(outcomes)}Q", *chunk.positions),
            bytes(STATE_BYTES[outcome.status] for outcome in outcomes),
            struct.pack(f"<{len(outcomes)}H", *(datasets[outcome.dataset] for outcome in outcomes)),
            sum(outcome.output_tokens or 0 for outcome in outcomes),
            failures[0][0] or "" if failures else "",
            int(is_progress),
            self._settings.retention_s,
        )
        if raised < 0:
            raise LeaseLost(f"the ledger no longer knows chunk {chunk.number} of {chunk.run_id}")
        return raised

    def release(self, lease: Lease, *, blame: int = 0, delay_s: float = 0.0) -> bool:
        """Give a chunk back, journal and all, to be taken over after ``delay_s``.  Returns whether it was still ours.

        ``blame`` says that it may be what took the engine down; with ``SUSPECT`` points its samples run one at a time.
        """
        return bool(self._call(lease.run_id, lease.chunk, "release", lease.chunk, lease.token, blame, int(delay_s * 1000)))

    def pause_run(self, run_id: str, reason: str) -> bool:
        """Hand out no more chunks of a run until ``continue_run``; ``reason`` is for a person."""
        return bool(self._call(run_id, None, "set_state", RunState.PAUSED, mask_text(reason)))

    def cancel_run(self, run_id: str, reason: str) -> bool:
        """Hand out no more chunks of a run.  Returns whether the run is known and not done."""
        return bool(self._call(run_id, None, "set_state", RunState.CANCELLED, reason))

    def continue_run(self, run_id: str) -> bool:
        """Hand out chunks of a paused or cancelled run again.  Returns whether the run is known and not done."""
        if not self._call(run_id, None, "set_state", RunState.RUNNING, ""):
            return False
        model: Any = self.client.hget(run_keys(run_id).run, "model")
        self.client.sadd(runs_key(model.decode()), run_id)  # last, see `list_runs`
        return True

    def expire_leases(self, run_id: str, *, limit: int = 256, of_silent: bool = True) -> list[int]:
        """Return chunks that were given back or, ``of_silent`` holders too, whose holder has been silent for too long.

        Each of them once, and again after ``lease_s`` if nobody has tried to lease it since.
        """
        return [int(chunk) for chunk in self._call(run_id, None, "expire", limit, self._lease_ms, int(of_silent))]

    def offer_again(self, run_id: str, chunk: int) -> None:
        """Let a chunk that ``expire_leases`` has returned be returned again at once, unless somebody has leased it since."""
        self._call(run_id, None, "offer", chunk)

    def find_pending(self, run_id: str, *, start: int = 0, limit: int = 256) -> list[int]:
        """Return up to ``limit`` chunks from ``start`` on that are neither done nor leased."""
        return [int(chunk) for chunk in self._call(run_id, None, "pending", start, limit)]

    def iterate_pending(self, run_id: str) -> Iterator[int]:
        """Yield every chunk that is neither done nor leased, in order."""
        start, size = 0, 4096
        while found := self.find_pending(run_id, start=start, limit=size):
            yield from found
            start = found[-1] + 1

    def forget_run(self, run_id: str) -> None:
        """Delete what the ledger has of a run, so that it can be rebuilt from the store.

        Journals stay: they are outcomes, by sample, and whoever runs a chunk again need not redo them.
        """
        self.client.delete(*run_keys(run_id))

    def list_runs(self, model: str) -> list[str]:
        """Return the ids of a model's open runs; those that ended or vanished are taken off the list."""
        members: Any = self.client.smembers(runs_key(model))
        named = sorted(run_id.decode() for run_id in members)
        with self.client.pipeline(transaction=False) as pipe:
            for run_id in named:
                pipe.hget(run_keys(run_id).run, "state")
            states = pipe.execute()
        ended = [run_id for run_id, state in zip(named, states, strict=True) if state in _ENDED]
        if ended:
            self._prune_runs(model, ended)
        return [run_id for run_id in named if run_id not in ended]

    def _prune_runs(self, model: str, run_ids: Sequence[str]) -> None:
        """Take ended runs off the list, but none that goes on again at this very moment."""

        def prune(pipe: Pipeline) -> None:
            ended = [run_id for run_id in run_ids if pipe.hget(run_keys(run_id).run, "state") in _ENDED]
            pipe.multi()
            if ended:
                pipe.srem(runs_key(model), *ended)

        self.client.transaction(prune, *(run_keys(run_id).run for run_id in run_ids))

    def view_run(self, run_id: str) -> LedgerView | None:
        """Return the run as it stands, or ``None`` if the ledger does not know it."""
        keys = run_keys(run_id)
        with self.client.pipeline() as pipe:
            pipe.hgetall(keys.run)
            pipe.hgetall(keys.counts)
            pipe.zrange(keys.leases, 0, -1)
            pipe.hgetall(keys.holders)
            pipe.lrange(keys.progress, 0, -1)
            pipe.time()
            fields, counted, leased, held, commits, (seconds, micros) = pipe.execute()
        if not fields:
            return None
        return LedgerView(
            model=fields[b"model"].decode(),
            state=RunState(fields[b"state"].decode()),
            reason=fields.get(b"reason", b"").decode(),
            samples=int(fields[b"samples"]),
            chunks=int(fields[b"chunks"]),
            chunks_done=int(fields.get(b"chunks_done", 0)),
            started_s=int(fields.get(b"started_ms", fields[b"opened_ms"])) / 1000,
            changed_s=int(fields[b"changed_ms"]) / 1000,
            now_s=seconds + micros / 1e6,
            counts={_parse_count_field(field): int(count) for field, count in counted.items()},
            holders={int(chunk): held[chunk].decode().partition(" ")[2] for chunk in leased if chunk in held},
            progress=[_parse_commit(entry) for entry in commits],
        )

    def read_done(self, run_id: str, *, start: int = 0) -> bytes:
        """Return one byte a chunk from ``start`` on: 1 for those that are done."""
        done: Any = self.client.getrange(run_keys(run_id).chunks, start, -1)
        return done or b""

    def read_states(self, run_id: str) -> bytes:
        """Return one byte a sample, by plan position (``STATE_BYTES``)."""
        states: Any = self.client.get(run_keys(run_id).states)
        return states or b""

    @property
    def _lease_ms(self) -> int:
        return int(self._settings.lease_s * 1000)

    def _call(self, run_id: str, chunk: int | None, *arguments: Any) -> Any:
        of_chunk = "none" if chunk is None else chunk
        keys = [*run_keys(run_id), journal_key(run_id, of_chunk), trial_key(run_id, of_chunk)]
        return self._script(keys=keys, args=arguments)


def _parse_count_field(field: bytes) -> tuple[int, str]:
    dataset, _, state = field.decode().partition(":")
    return int(dataset), _STATE_NAMES[int(state)]


def _parse_commit(entry: bytes) -> Commit:
    at_ms, samples, tokens = entry.split()
    return Commit(int(at_ms) / 1000, int(samples), int(tokens))
