"""Commands get SIGKILL or SIGINT at each of their steps. Running the same command again completes the work.

``tests/integration/test_producer_commands.py`` also kills ``enqueue``, and checks the state that it leaves.
"""

import signal
from pathlib import Path

import pytest

from common.spec.files import read_specs
from common.storage.plan_index import read_index
from tests.support.fleet import Fleet, make_rows
from tests.support.planning import put_part, read_rung, run_chunks
from tests.support.producers import Ended, run_signalled
from tests.support.soundness import assert_run_is_sound

SAMPLES = 60
BY = pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl+C"])
PLANNING = ("while_sorting_samples", "while_writing_samples", "after_samples", "after_index", "after_run_record")


@pytest.fixture
def spec(fleet: Fleet) -> Path:
    """Return a spec of 12 chunks."""
    fleet.write_profile("quick")
    return fleet.write_spec("quick", [fleet.write_dataset("rows", make_rows(SAMPLES))], chunks={"max_samples": 5})


@pytest.fixture
def run_id(fleet: Fleet, spec: Path) -> str:
    """Enqueue that spec and return the run's id."""
    return fleet.enqueue(spec).run_id


def assert_ended_by(ended: Ended, by: signal.Signals) -> None:
    if by == signal.SIGINT:
        assert (ended.code, ended.stderr.strip()) == (130, "interrupted; nothing is lost, run the same command again")
    else:
        assert ended.code == -by, ended.stderr


def put_some_parts(fleet: Fleet, run_id: str) -> None:
    for chunk in [*read_index(fleet.store, run_id)][::3]:
        put_part(fleet.store, chunk)


@BY
@pytest.mark.parametrize("point", [*PLANNING, "after_open", "while_committing_parts", "after_three_rings"])
def test_repeated_enqueue_completes_an_interrupted_enqueue(fleet: Fleet, spec: Path, point: str, by: signal.Signals) -> None:
    [asked] = read_specs(spec)
    if point == "while_committing_parts":  # at enqueue, only a run that Redis has lost has parts
        put_some_parts(fleet, fleet.enqueue(spec).run_id)
        fleet.ledger.client.flushall()
    assert_ended_by(run_signalled(fleet, point, "enqueue", str(spec), by=by), by)
    assert (fleet.ledger.view_run(asked.run_id) is None) == (point in PLANNING)

    fleet.run_producer("enqueue", str(spec))
    assert set(fleet.ledger.iterate_pending(asked.run_id)) <= set(read_rung(fleet.ledger.client, "quick"))
    run_chunks(fleet, "quick", asked.run_id)
    assert len(assert_run_is_sound(fleet, asked.run_id)) == SAMPLES


@BY
@pytest.mark.parametrize("point", ["after_forgetting", "after_open", "while_committing_parts", "after_three_rings"])
def test_repeated_rebuild_completes_an_interrupted_rebuild(fleet: Fleet, run_id: str, point: str, by: signal.Signals) -> None:
    run_chunks(fleet, "quick", run_id, [1, 2, 5])
    put_some_parts(fleet, run_id)
    assert_ended_by(run_signalled(fleet, point, "resume", run_id, "--rebuild", by=by), by)

    fleet.run_producer("resume", run_id, "--rebuild")
    done = {0, 3, 6, 9} | {1, 2, 5}
    assert set(fleet.ledger.iterate_pending(run_id)) == set(range(12)) - done
    assert fleet.status(run_id).samples.ok == 5 * len(done)
    run_chunks(fleet, "quick", run_id)
    assert_run_is_sound(fleet, run_id)


@BY
@pytest.mark.parametrize("point", ["while_reading_parts", "while_writing_results", "before_results_appear", "between_two_results"])
def test_interrupted_collect_does_not_leave_partial_results(fleet: Fleet, run_id: str, point: str, by: signal.Signals) -> None:
    out = fleet.folder / "out"
    collect = ["collect", run_id, "--out", str(out)]
    run_chunks(fleet, "quick", run_id, range(5))
    fleet.run_producer(*collect, code=1)
    older = read_results(out)
    run_chunks(fleet, "quick", run_id)
    assert_ended_by(run_signalled(fleet, point, *collect, by=by), by)
    left = read_results(out)
    if by == signal.SIGINT:
        assert {path.name for path in out.iterdir()} == set(left), "unfinished files must not be left behind"

    assert "60 ok" in fleet.run_producer(*collect)
    newer = read_results(out)
    assert newer != older
    assert left == (older if point != "between_two_results" else {**older, "results.parquet": newer["results.parquet"]})
    assert_run_is_sound(fleet, run_id)


def read_results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("results.parquet", "results.jsonl")}


@BY
@pytest.mark.parametrize("point", ["while_reading_answers", "before_results_appear", "between_two_results"])
def test_repeated_export_completes_an_interrupted_export(fleet: Fleet, run_id: str, point: str, by: signal.Signals) -> None:
    out = fleet.folder / "out"
    export = ["export", run_id, "--format", "captions", "--names", "id", "--out", str(out)]
    run_chunks(fleet, "quick", run_id)
    assert_ended_by(run_signalled(fleet, point, *export, by=by), by)
    left = {path.name: path.read_text() for path in out.glob("*")}
    exported = {name: text for name, text in left.items() if name.endswith(".txt")}
    assert set(exported.values()) <= {"ok"}, "a file with its final name must be complete"
    if by == signal.SIGINT:
        assert left == exported, "unfinished files must not be left behind"

    output = fleet.run_producer(*export)
    assert f"{SAMPLES - len(exported)} written, 0 replaced, {len(exported)} unchanged" in output
    assert {path.name for path in out.glob("*.txt")} == {f"{number}.txt" for number in range(SAMPLES)}
    assert_run_is_sound(fleet, run_id)


@BY
def test_interrupted_evaluate_does_not_change_the_store(fleet: Fleet, run_id: str, by: signal.Signals) -> None:
    run_chunks(fleet, "quick", run_id)
    before = {key: fleet.store.get(key) for key in fleet.store.list_keys()}
    assert_ended_by(run_signalled(fleet, "while_reading_parts", "evaluate", run_id, by=by), by)
    assert {key: fleet.store.get(key) for key in fleet.store.list_keys()} == before
    fleet.run_producer("evaluate", run_id)
    assert_run_is_sound(fleet, run_id)
