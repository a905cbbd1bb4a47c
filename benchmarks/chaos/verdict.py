"""Check a run after the soak: whether its parts are complete, and whether the ledger agrees with the store."""

from collections import Counter
from dataclasses import dataclass, field

from common.errors import FleetError
from common.ledger.keys import journal_key, run_keys
from common.ledger.ledger import Ledger
from common.records import STATE_BYTES, Outcome
from common.storage.keys import parse_part_key, parts_prefix
from common.storage.plan_index import read_index
from common.storage.run_record import read_run
from common.storage.store import Store
from producer.results.collect import UNPROCESSED, collect_outcomes


@dataclass
class Verdict:
    """Counts of samples by outcome, of lost and duplicated samples, and descriptions of other errors. Verdicts can be added."""

    samples: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    wrongs: list[str] = field(default_factory=list)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            self.samples + other.samples,
            self.outcomes + other.outcomes,
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.wrongs + other.wrongs,
        )


def judge_run(run_id: str, store: Store, ledger: Ledger) -> Verdict:
    """Compare the plan, the parts and the ledger of a run, and report every difference. The run must have ended.

    A planned sample without an outcome is lost. A sample that is collected or counted more than once is duplicated.
    """
    _, plan = read_run(store, run_id)
    try:
        outcomes = list(collect_outcomes(run_id, store))  # verifies every part against its chunk
    except FleetError as error:
        return Verdict(samples=plan.samples, wrongs=[f"{run_id}: {error}"])
    ended = [outcome for outcome in outcomes if outcome.status != UNPROCESSED]
    distinct = {(outcome.dataset, outcome.sample_id) for outcome in ended}
    named = Counter(f"{outcome.status}/{outcome.error_code}" if outcome.error_code else outcome.status for outcome in ended)
    view = ledger.view_run(run_id)
    counted = sum(view.counts.values()) if view else 0
    return Verdict(
        samples=plan.samples,
        outcomes=named,
        lost=plan.samples - len(distinct),
        duplicated=len(ended) - len(distinct) + max(0, counted - plan.samples),
        wrongs=[f"{run_id}: {wrong}" for wrong in _find_wrongs(run_id, outcomes, store, ledger)],
    )


def _find_wrongs(run_id: str, outcomes: list[Outcome], store: Store, ledger: Ledger) -> list[str]:
    _, plan = read_run(store, run_id)
    view = ledger.view_run(run_id)
    if view is None:
        return ["the ledger does not contain it"]
    datasets = [counts.name for counts in plan.datasets]
    in_parts = Counter((datasets.index(outcome.dataset), str(outcome.status)) for outcome in outcomes)
    in_ledger = {place: count for place, count in view.counts.items() if count}
    parts = sorted(parse_part_key(key) for key in store.list_keys(parts_prefix(run_id)))
    keys = run_keys(run_id)
    checks = {
        f"its state is {view.state} ({view.reason})": view.state == "done",
        f"{view.chunks_done} of {view.chunks} chunks are done": view.chunks_done == view.chunks,
        f"it has {len(parts)} parts": parts == [(chunk.wave, chunk.number) for chunk in read_index(store, run_id)],
        "the states of the ledger differ from those of the parts": ledger.read_states(run_id)
        == bytes(STATE_BYTES.get(outcome.status, 0) for outcome in outcomes),
        f"the ledger counts {in_ledger}, the parts {dict(in_parts)}": in_ledger == in_parts,
        "a lease remains": not ledger.client.zcard(keys.leases),
        "a holder remains": not ledger.client.hlen(keys.holders),
        "a journal remains": not any(ledger.client.scan_iter(match=journal_key(run_id, "*"), count=1000)),
    }
    return [wrong for wrong, is_right in checks.items() if not is_right]
