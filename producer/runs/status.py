"""How far a run is: states that always add up, rates, and who holds what."""

from collections.abc import Callable

from common.errors import ConfigError
from common.ledger.ledger import Ledger, LedgerView
from common.ledger.worker_registry import WorkerRecord, list_workers
from common.records import DatasetCounts, Plan, Record, RunState
from common.storage.plan_index import ChunkIndex, read_index, read_run
from common.storage.store import Store

_RATE_WINDOW_S = 30.0


class SampleCounts(Record):
    """Samples by state.  ``rows = unique + duplicates``, and the five states add up to ``unique``.

    A sample that is run again stays in the state that it had, until the new one is better.
    """

    rows: int
    unique: int
    duplicates: int
    ok: int = 0
    invalid: int = 0
    failed: int = 0
    in_flight: int = 0
    unprocessed: int = 0


class RunStatus(Record):
    """What ``producer status RUN --json`` prints.

    ``retrying`` counts samples that are being run again.  ``samples_per_s`` and ``tokens_per_s`` are the run's own, by what was
    committed in the last 30 s; those of ``workers``, by what each has answered, may be for other runs too.  ``eta_s`` (seconds)
    is ``None`` while nothing moves.
    """

    run_id: str
    model: str
    state: RunState
    reason: str | None
    samples: SampleCounts
    datasets: dict[str, SampleCounts]
    retrying: int
    samples_per_s: float
    tokens_per_s: float
    eta_s: float | None
    workers: tuple[WorkerRecord, ...]

    @property
    def all_ok(self) -> bool:
        return self.samples.ok == self.samples.unique


def read_status(run_id: str, store: Store, ledger: Ledger) -> RunStatus:
    """Return a run's status.  Raises ``ConfigError`` when no such run was planned, or the ledger has lost it."""
    return prepare_status(run_id, store, ledger)()


def prepare_status(run_id: str, store: Store, ledger: Ledger) -> Callable[[], RunStatus]:
    """Read the run's plan, once, and return a function that reads its status from the ledger as often as it is called."""
    _, plan = read_run(store, run_id)
    index = read_index(store, run_id)

    def tell() -> RunStatus:
        nonlocal index
        view = ledger.view_run(run_id)
        if view is None:
            raise ConfigError(
                f"Redis does not know run {run_id} (was it flushed?); bring it back: producer resume {run_id} --rebuild"
            )
        if view.chunks > len(index):
            index = read_index(store, run_id)
        return _tell_status(plan, view, index, ledger)

    return tell


def _tell_status(plan: Plan, view: LedgerView, index: ChunkIndex, ledger: Ledger) -> RunStatus:
    leased = [chunk.datasets for chunk in map(index.__getitem__, view.holders) if chunk.wave == 1]
    datasets = {
        counts.name: _count_states(counts, number, view, sum(chunk[number] for chunk in leased))
        for number, counts in enumerate(plan.datasets)
    }
    total = SampleCounts(
        **{field: sum(getattr(counts, field) for counts in datasets.values()) for field in SampleCounts.model_fields}
    )
    samples_per_s, tokens_per_s = measure_rate(view)
    retrying = _count_retrying(index, ledger) if len(index.waves) > 1 else 0
    left = total.in_flight + total.unprocessed + retrying
    return RunStatus(
        run_id=plan.run_id,
        model=view.model,
        state=view.state,
        reason=view.reason or None,
        samples=total,
        datasets=datasets,
        retrying=retrying,
        samples_per_s=samples_per_s,
        tokens_per_s=tokens_per_s,
        eta_s=0.0 if not left else left / samples_per_s if samples_per_s else None,
        workers=tuple(list_workers(ledger.client, view.model)),
    )


def _count_retrying(index: ChunkIndex, ledger: Ledger) -> int:
    begin = index.waves[0].end
    done = ledger.read_done(index.run_id, start=begin)[: len(index) - begin]  # the run may have grown since the index was read
    return sum(index[number].count for number, is_done in enumerate(done, start=begin) if not is_done)


def _count_states(counts: DatasetCounts, number: int, view: LedgerView, in_flight: int) -> SampleCounts:
    ok, invalid, failed = (view.counts.get((number, state), 0) for state in ("ok", "invalid", "failed"))
    return SampleCounts(
        rows=counts.rows,
        unique=counts.unique,
        duplicates=counts.duplicates,
        ok=ok,
        invalid=invalid,
        failed=failed,
        in_flight=in_flight,
        unprocessed=counts.unique - ok - invalid - failed - in_flight,
    )


def measure_rate(view: LedgerView) -> tuple[float, float]:
    """Return samples/s and tokens/s: over the last 30 s of a run that goes on, over the whole of one that is done.

    The ledger keeps the last commits only; where these reach less far back, the time since the oldest of them counts.
    """
    since_s, until_s = max(view.started_s, view.now_s - _RATE_WINDOW_S), view.now_s
    if view.state == RunState.DONE:
        since_s, until_s = view.started_s, view.changed_s
    if view.chunks_done > len(view.progress) > 0:
        since_s = max(since_s, view.progress[-1].at_s)
    recent = [commit for commit in view.progress if commit.at_s >= since_s]
    span_s = max(until_s - since_s, 1e-3)
    return sum(commit.samples for commit in recent) / span_s, sum(commit.tokens for commit in recent) / span_s
