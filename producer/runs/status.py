"""The status of a run: samples by state, rates, and the chunks that each worker holds."""

from collections.abc import Callable

from common.errors import ConfigError
from common.ledger.ledger import Ledger, LedgerView
from common.ledger.worker_registry import WorkerRecord, list_workers
from common.records import DatasetCounts, Record, RunState
from common.redaction import mask_text
from common.storage.plan_index import ChunkIndex
from common.storage.run_record import PlannedRun, load_planned_run
from common.storage.store import Store

_RATE_WINDOW_S = 30.0


class SampleCounts(Record):
    """Samples by state. ``rows = unique + duplicates``, and the five states add up to ``unique``.

    A sample that is run again keeps its state until it reaches a better one.
    """

    rows: int
    unique: int
    duplicates: int
    ok: int = 0
    invalid: int = 0
    failed: int = 0
    in_flight: int = 0
    unprocessed: int = 0


class QuarantineCounts(Record):
    """Samples of quarantined chunks, and how many of them have an outcome."""

    samples: int
    cleared: int


class RunStatus(Record):
    """The object that ``producer status RUN --json`` prints.

    ``retrying`` counts samples that are being run again. ``samples_per_s`` and ``tokens_per_s`` cover this run's commits of the
    last 30 s. The rates of ``workers`` cover all answers of a worker, including answers for other runs. ``eta_s`` (seconds) is
    ``None`` while the rate is 0. ``quarantine`` is ``None`` if the run does not have quarantined chunks.
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
    quarantine: QuarantineCounts | None = None

    @property
    def all_ok(self) -> bool:
        return self.samples.ok == self.samples.unique


def read_status(run_id: str, store: Store, ledger: Ledger) -> RunStatus:
    """Return a run's status. Raises ``ConfigError`` if the store does not have the run, or the ledger has lost the run."""
    return prepare_status(run_id, store, ledger)()


def prepare_status(run_id: str, store: Store, ledger: Ledger) -> Callable[[], RunStatus]:
    """Load the run once and return a function that reads its current status from the ledger at each call."""
    run = load_planned_run(store, run_id)

    def read() -> RunStatus:
        nonlocal run
        view = ledger.view_run(run_id)
        if view is None:
            raise ConfigError(
                f"Redis has no record of run {run_id} (was it flushed?); restore it with: producer resume {run_id} --rebuild"
            )
        if view.chunks > len(run.index):
            run = run.reload_index(store)
        return _build_status(run, view, ledger)

    return read


def _build_status(run: PlannedRun, view: LedgerView, ledger: Ledger) -> RunStatus:
    plan, index = run.plan, run.index
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
        reason=mask_text(view.reason) if view.reason else None,
        samples=total,
        datasets=datasets,
        retrying=retrying,
        samples_per_s=samples_per_s,
        tokens_per_s=tokens_per_s,
        eta_s=0.0 if not left else left / samples_per_s if samples_per_s else None,
        workers=tuple(list_workers(ledger.client, view.model)),
        quarantine=_count_quarantined(index, ledger),
    )


def _count_quarantined(index: ChunkIndex, ledger: Ledger) -> QuarantineCounts | None:
    cleared = ledger.count_cleared(index.run_id)
    samples = sum(index[chunk].count for chunk in cleared if chunk < len(index))  # the ledger may have newer chunks
    return QuarantineCounts(samples=samples, cleared=sum(cleared.values())) if cleared else None


def _count_retrying(index: ChunkIndex, ledger: Ledger) -> int:
    begin = index.waves[0].end
    done = ledger.read_done(index.run_id, start=begin)[: len(index) - begin]  # as above
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
    """Return samples/s and tokens/s over the last 30 s of an unfinished run, or over the whole duration of a finished run.

    The ledger keeps only the latest commits. If these cover less time, the rate starts at the oldest commit.
    """
    since_s, until_s = max(view.started_s, view.now_s - _RATE_WINDOW_S), view.now_s
    if view.state == RunState.DONE:
        since_s, until_s = view.started_s, view.changed_s
    if view.chunks_done > len(view.progress) > 0:
        since_s = max(since_s, view.progress[-1].at_s)
    recent = [commit for commit in view.progress if commit.at_s >= since_s]
    span_s = max(until_s - since_s, 1e-3)
    return sum(commit.samples for commit in recent) / span_s, sum(commit.tokens for commit in recent) / span_s
