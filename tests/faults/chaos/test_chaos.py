"""A short chaos soak, and tests that it detects lost samples. Results of a long soak are in ``benchmarks/results``."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from benchmarks.chaos.__main__ import count_kills, find_wrongs
from benchmarks.chaos.faults import FAULTS, Draw, draw_faults, kill_producer
from benchmarks.chaos.fleet import ChaosFleet, Run
from benchmarks.chaos.takeover import find_percentile
from benchmarks.chaos.verdict import Verdict, judge_run
from common.exit_codes import USER_MUST_ACT
from common.ledger.keys import run_keys
from common.ledger.ledger import Ledger
from common.storage.keys import part_key
from tests.support.fleet import ROOT, Fleet, make_rows
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows, open_worker
from workers.execution.chunk import run_chunk

MIN_KILLS = 4
SOAK = ("--seed", "4246", "--minutes", "1.5", "--kills", "10", "--samples", "1500", "--workers", "4", "--every", "1.2")
DEADLINE_S = 240


def run_soak(environment: dict[str, str]) -> tuple[int, str]:
    """Return the soak's exit code and output. A soak that takes too long gets SIGTERM, so that it stops its processes."""
    command = [sys.executable, "-m", "benchmarks.chaos", *SOAK]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as soak:
        try:
            output, _ = soak.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            soak.terminate()
            output, _ = soak.communicate()
        return soak.returncode, output


@pytest.mark.timeout(300)  # the soak starts more than a dozen processes, one after the other
def test_random_kills_do_not_lose_or_duplicate_samples() -> None:
    settings = {"FLEET_LEASE_S": "2", "FLEET_RENEW_S": "0.5", "FLEET_JANITOR_S": "0.5"}
    code, output = run_soak({**os.environ, **settings})
    assert code == 0, output
    table = {name.strip(): value for name, value in re.findall(r"^(.+?) {2,}(\S.*)$", output, re.MULTILINE)}
    assert (table["lost"], table["duplicated"]) == ("0", "0"), output
    assert int(table["kills"]) >= MIN_KILLS, output
    assert table["processes left after the drain"] == "0", output


def test_soak_reports_lost_samples_and_differing_ledger(fleet: Fleet) -> None:
    fleet.write_profile("judged")
    run_id = enqueue_rows(fleet, "judged", make_rows(48))
    assert judge_run(run_id, fleet.store, fleet.ledger).lost == 48
    with open_worker(fleet, "judged") as worker:
        for chunk in range(3):
            run_chunk(worker, run_id, chunk)
    whole = judge_run(run_id, fleet.store, fleet.ledger)
    assert (whole.outcomes, whole.lost, whole.duplicated, whole.wrongs) == ({"ok": 48}, 0, 0, [])

    fleet.ledger.client.hincrby(run_keys(run_id).counts, "0:3", 1)
    assert judge_run(run_id, fleet.store, fleet.ledger).duplicated == 1
    (fleet.folder / "store" / part_key(run_id, 1, 1)).unlink()
    broken = judge_run(run_id, fleet.store, fleet.ledger)
    assert broken.lost == 16
    assert any("states of the ledger" in wrong for wrong in broken.wrongs)


def test_soak_reports_leftover_process_and_counts_real_kills(fleet: Fleet) -> None:
    """A producer that ended before its kill does not count as killed."""
    (fleet.folder / "soak").mkdir()
    chaos = ChaosFleet(fleet.folder / "soak", fleet.server, fleet.settings, workers=3, samples=1)
    assert find_wrongs(chaos, Verdict(), 0) == []
    assert find_wrongs(chaos, Verdict(), 1) == ["1 processes left after the drain"]

    chaos.runs.append(Run("none", fleet.folder / "none.yaml", run_id="none-0123456789ab"))
    assert kill_producer(chaos, Draw("producer killed", pause_s=0, pick=0, amount=0))
    (command,) = chaos.commands
    assert command.process.wait(timeout=60) == USER_MUST_ACT, "the spec does not exist"
    chaos.redis_is_up = False  # otherwise the soak would enqueue a run that the ledger does not contain
    chaos.tick()
    assert chaos.is_quiet
    assert count_kills(chaos, Counter({"producer killed": 2})) == 1


def test_chunk_is_offered_again_after_successor_dies(fleet: Fleet) -> None:
    """The successor dies before it has the lease."""
    settings = fleet.settings.model_copy(update={"lease_s": 0.2, "renew_s": 0.1})
    ledger = Ledger(fleet.ledger.client, settings)
    fleet.write_profile("orphaned")
    run_id = enqueue_rows(fleet, "orphaned", make_rows(32))
    assert ledger.acquire(run_id, 1, "dead@test")
    assert wait_until(lambda: ledger.expire_leases(run_id), "the lease to expire") == [1]
    # The successor dies here, or loses its connection before it receives the response. The queue is not empty, so the janitor
    # does not publish the chunk again.
    assert wait_until(lambda: ledger.expire_leases(run_id), "the chunk to be offered again") == [1]
    assert ledger.acquire(run_id, 1, "next@test")
    wait_until(lambda: ledger.expire_leases(run_id), "the next worker's lease to expire")
    ledger.pause_run(run_id, "for this test")
    assert ledger.acquire(run_id, 1, "late@test") is None
    assert not ledger.client.exists(run_keys(run_id).offers)  # a paused run is not offered to workers


def test_same_seed_draws_the_same_faults() -> None:
    first, again, other = (draw_faults(seed, 5.0) for seed in (7, 7, 8))
    drawn = [next(first) for _ in range(200)]
    assert drawn == [next(again) for _ in range(200)]
    assert drawn != [next(other) for _ in range(200)]
    assert {draw.kind for draw in drawn} == set(FAULTS)


def test_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [find_percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert find_percentile([], 0.99) is None
