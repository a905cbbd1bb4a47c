"""The ledger: the Redis record of a run's chunks, leases, journals and counts. ``ledger.lua`` documents its keys.

Correctness depends on this module alone; a Celery message only names a chunk to check. All times come from the clock of Redis,
so a wrong clock on a worker does not affect leases.
"""

import os
import secrets
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.client import Pipeline

from common.deaths import DeathCause
from common.errors import LeaseLost
from common.ledger.keys import journal_key, run_keys, runs_key, trial_key
from common.records import STATE_BYTES, Chunk, Lease, Outcome, Part, Plan, RunState, Standing
from common.redaction import mask_text
from common.settings import Settings
from common.spec.models import AbortIf

_SCRIPT = (Path(__file__).parent / "ledger.lua").read_text(encoding="utf-8")
_CONTROL = "control"
_ENDED = (None, RunState.DONE.encode(), RunState.CANCELLED.encode())  # None: the record expired or was deleted
_STATE_NAMES = {byte: name for name, byte in STATE_BYTES.items()}


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: its time (Unix seconds by the clock of Redis) and its numbers of samples and output tokens."""

    at_s: float
    samples: int
    tokens: int


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The ledger's record of a run, read in one transaction.

    ``counts`` maps (dataset number, state name) to a number of samples. ``holders`` maps a leased chunk to its worker.
    ``progress`` lists recent commits, newest first. Times are Unix seconds by the clock of Redis: ``started_s`` is the time
    of the first lease and ``now_s`` the time of reading.
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
    """The commands of ``ledger.lua`` with records as arguments and results. Thread-safe."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self._settings = settings
        self._script = client.register_script(_SCRIPT)

    def open_run(self, plan: Plan, model: str, *, chunks: int | None = None) -> bool:
        """Record a planned run as running. Return True if this call created the record.

        ``chunks`` counts the chunks of all waves. A recorded run with fewer chunks is extended, and set to running if it
        was done.
        """
        count = chunks or plan.chunks
        token = secrets.token_hex(8)
        opened = self._call(plan.run_id, None, "open", model, plan.samples, count, token, self._settings.retention_s)
        if not opened:
            self._call(plan.run_id, None, "extend", count, self._settings.retention_s)
        self.client.sadd(runs_key(model), plan.run_id)
        return bool(opened)

    def set_abort(self, run_id: str, abort_if: AbortIf | None) -> None:
        """Set the failure rate at which the run is paused. With ``None``, failures never pause the run."""
        given = (abort_if.failed_rate, abort_if.after) if abort_if else ("", "")
        self._call(run_id, None, "set_abort", *given)

    def acquire(self, run_id: str, chunk: int, worker: str, *, takes_struck: bool = True) -> Lease | None:
        """Lease a chunk for ``lease_s``.

        Return ``None`` if the chunk is done, if another worker holds it, or if its run is not running. Also return ``None`` for
        a struck or quarantined chunk without ``takes_struck``, and for a quarantined chunk while another quarantined chunk of
        the run is leased.
        """
        token = f"{os.getpid()}-{secrets.token_hex(8)}"  # `release_dead` finds the leases of a process by its id
        answer = self._call(
            run_id, chunk, "acquire", chunk, token, worker, self._lease_ms, self._settings.retention_s, int(takes_struck)
        ).decode()
        if answer not in set(Standing):
            return None
        return Lease(run_id=run_id, chunk=chunk, token=token, worker=worker, standing=Standing(answer))

    def renew(self, run_id: str, leases: Sequence[Lease]) -> list[Lease]:
        """Extend leases of one run to ``lease_s`` from now. Return the lost leases."""
        named = [text for lease in leases for text in (lease.chunk, lease.token)]
        renewed = self._call(run_id, None, "renew", self._lease_ms, self._settings.retention_s, *named)
        return [lease for lease, kept in zip(leases, renewed, strict=True) if not kept]

    def journal(self, lease: Lease, outcomes: Iterable[Outcome]) -> None:
        """Store outcomes of a leased chunk, so that a later holder does not redo them. Raises ``LeaseLost``."""
        entries = [text for outcome in outcomes for text in (outcome.sample_id, outcome.model_dump_json(exclude_defaults=True))]
        if entries and not self._call(
            lease.run_id, lease.chunk, "journal", lease.chunk, lease.token, self._settings.retention_s, *entries
        ):
            raise LeaseLost(f"chunk {lease.chunk} of {lease.run_id} is no longer leased by this worker")

    def read_journal(self, lease: Lease) -> dict[str, Outcome]:
        """Return the outcomes in the chunk's journal by sample id. Earlier holders have stored them."""
        entries: Any = self.client.hgetall(journal_key(lease.run_id, lease.chunk))
        return {sample_id.decode(): Outcome.model_validate_json(text) for sample_id, text in entries.items()}

    def begin_trial(self, lease: Lease, group: Sequence[str]) -> None:
        """Record the samples of a quarantined chunk that run now, apart from all others. An empty ``group`` is the control.

        If the holder dies, the death counts against this group. Raises ``LeaseLost``.
        """
        named = " ".join(group) or _CONTROL
        if not self._call(lease.run_id, lease.chunk, "begin_trial", lease.chunk, lease.token, named, self._settings.retention_s):
            raise LeaseLost(f"chunk {lease.chunk} of {lease.run_id} is no longer leased by this worker")

    def read_deaths(self, lease: Lease) -> dict[tuple[str, ...], Counter[DeathCause]]:
        """Return the deaths of holders while each group of a quarantined chunk ran, by the sample ids of the group."""
        deaths: dict[tuple[str, ...], Counter[DeathCause]] = {}
        entries: Any = self.client.hgetall(trial_key(lease.run_id, lease.chunk))
        for field, times in entries.items():
            kind, _, rest = field.decode().partition(":")
            cause, _, group = rest.partition(":")
            if kind == "died":
                deaths.setdefault(tuple(group.split(" ")), Counter())[DeathCause(cause)] += int(times)
        return deaths

    def forget_deaths(self, lease: Lease, group: Sequence[str]) -> None:
        """Delete the recorded deaths of a group, so that the group gets the full number of tries again."""
        self._call(lease.run_id, lease.chunk, "forget_deaths", lease.chunk, lease.token, " ".join(group), *DeathCause)

    def commit(self, chunk: Chunk, part: Part, datasets: Mapping[str, int], *, is_progress: bool = True) -> int:
        """Count a part's outcomes and mark its chunk done, with or without a lease. Return how many samples changed state.

        ``datasets`` maps a dataset's name to its number in the plan. Without ``is_progress`` the commit does not count toward
        the rate. Raises ``LeaseLost`` if the ledger has no record of the run or of the chunk. The part stays in the store,
        where a rebuild or the next holder of the chunk finds it.
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
            sum(outcome.counted_tokens for outcome in outcomes),
            failures[0][0] or "" if failures else "",
            int(is_progress),
            self._settings.retention_s,
        )
        if raised < 0:
            raise LeaseLost(f"the ledger has no record of chunk {chunk.number} of {chunk.run_id}")
        return raised

    def release(self, lease: Lease, *, death: DeathCause | None = None, delay_s: float = 0.0) -> bool:
        """Give a chunk back and keep its journal. Return whether the chunk was still leased with this lease.

        Other workers can take the chunk over after ``delay_s``. ``death`` is the reason why the holder ended, if the chunk was
        in flight at that time. ``ledger.lua`` counts the deaths and determines whether the chunk is struck or quarantined.
        """
        ms = int(delay_s * 1000)
        return bool(self._call(lease.run_id, lease.chunk, "release", lease.chunk, lease.token, death or "", ms))

    def release_dead(self, model: str, worker: str, pid: int, death: DeathCause) -> int:
        """Give back all chunks that a worker process held when it ended. Return their number.

        Call it after the process and its children have exited.
        """
        released = 0
        for run_id in self.list_runs(model):
            held: Any = self.client.hgetall(run_keys(run_id).holders)
            for chunk, holder in held.items():
                token, _, name = holder.decode().partition(" ")
                if name == worker and token.partition("-")[0] == str(pid):
                    lease = Lease(run_id=run_id, chunk=int(chunk), token=token, worker=worker)
                    released += self.release(lease, death=death)
        return released

    def pause_run(self, run_id: str, reason: str) -> bool:
        """Stop leasing chunks of a run until ``continue_run``. Commands show ``reason``, with secrets masked, to users."""
        return bool(self._call(run_id, None, "set_state", RunState.PAUSED, mask_text(reason)))

    def cancel_run(self, run_id: str, reason: str) -> bool:
        """Stop leasing chunks of a run. Return whether the ledger has the run and it is not done."""
        return bool(self._call(run_id, None, "set_state", RunState.CANCELLED, reason))

    def continue_run(self, run_id: str) -> bool:
        """Resume a paused or cancelled run. Return whether the ledger has the run and it is not done."""
        if not self._call(run_id, None, "set_state", RunState.RUNNING, ""):
            return False
        model: Any = self.client.hget(run_keys(run_id).run, "model")
        self.client.sadd(runs_key(model.decode()), run_id)  # set the state first, because `list_runs` removes ended runs
        return True

    def expire_leases(self, run_id: str, *, limit: int = 256, with_expired: bool = True, takes_struck: bool = True) -> list[int]:
        """Return chunks to take over: chunks that were given back and, with ``with_expired``, chunks with an expired lease.

        Each chunk is returned once, and again after ``lease_s`` if no worker has tried to lease it since. With
        ``takes_struck``, at most one of them is struck or quarantined. Without it, all of them are fresh.
        """
        chunks = self._call(run_id, None, "expire", limit, self._lease_ms, int(with_expired), int(takes_struck))
        return [int(chunk) for chunk in chunks]

    def offer_again(self, run_id: str, chunk: int) -> None:
        """Make the next ``expire_leases`` return a chunk again, unless a worker leases it before."""
        self._call(run_id, None, "offer", chunk)

    def find_pending(self, run_id: str, *, start: int = 0, limit: int = 256) -> list[int]:
        """Return at most ``limit`` chunks that are neither done nor leased, from ``start`` on."""
        return [int(chunk) for chunk in self._call(run_id, None, "pending", start, limit)]

    def iterate_pending(self, run_id: str) -> Iterator[int]:
        """Yield every chunk that is neither done nor leased, in order."""
        start, size = 0, 4096
        while found := self.find_pending(run_id, start=start, limit=size):
            yield from found
            start = found[-1] + 1

    def forget_run(self, run_id: str) -> None:
        """Delete the ledger's record of a run, so that it can be rebuilt from the store.

        The journals stay. They contain outcomes by sample, so a worker that runs a chunk again does not redo these outcomes.
        """
        self.client.delete(*run_keys(run_id))

    def has_runs(self) -> bool:
        """Return whether the ledger holds any run, including runs that ended."""
        return any(True for _ in self.client.scan_iter(match=run_keys("*").states, count=1000))

    def list_runs(self, model: str) -> list[str]:
        """Return the ids of a model's open runs. Remove runs that ended or expired from the list."""
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
        """Remove ended runs from the list, except runs that another client resumes at the same time."""

        def prune(pipe: Pipeline) -> None:
            ended = [run_id for run_id in run_ids if pipe.hget(run_keys(run_id).run, "state") in _ENDED]
            pipe.multi()
            if ended:
                pipe.srem(runs_key(model), *ended)

        self.client.transaction(prune, *(run_keys(run_id).run for run_id in run_ids))

    def view_run(self, run_id: str) -> LedgerView | None:
        """Return the ledger's record of a run, or ``None`` if the run has no record."""
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

    def count_cleared(self, run_id: str) -> dict[int, int]:
        """Return the number of samples with an outcome in the journal of each quarantined chunk, by chunk."""
        chunks = [int(chunk) for chunk in self._call(run_id, None, "quarantined")]
        with self.client.pipeline(transaction=False) as pipe:
            for chunk in chunks:
                pipe.hlen(journal_key(run_id, chunk))
            return dict(zip(chunks, pipe.execute(), strict=True))

    def read_done(self, run_id: str, *, start: int = 0) -> bytes:
        """Return one byte per chunk from ``start`` on: 1 if it is done, else 0."""
        done: Any = self.client.getrange(run_keys(run_id).chunks, start, -1)
        return done or b""

    def read_states(self, run_id: str) -> bytes:
        """Return one byte per sample, by plan position (``STATE_BYTES``)."""
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
