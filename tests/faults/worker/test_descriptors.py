"""A worker's open files and connections depend on the chunks that it runs concurrently, not on the chunks that it has run."""

import psutil

from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows
from workers.recovery.takeover import MOST_TAKEOVERS

__all__ = ["clean_fleet"]  # a fixture

MODEL = "flat"
CHUNKS = 1000
CHUNKS_IN_FLIGHT = 2
# The pool of Redis connections grows to one connection for each thread that uses it: chunks, takeovers, the heartbeat. Each
# running chunk can also have a file of the store open.
MOST_ADDED = 2 * CHUNKS_IN_FLIGHT + MOST_TAKEOVERS + 1


def test_descriptors_do_not_grow_with_chunks(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    fleet.write_profile(MODEL)
    run_id = enqueue_rows(fleet, MODEL, make_rows(CHUNKS), chunk=1)
    fleet.start_workers(MODEL, chunks_in_flight=CHUNKS_IN_FLIGHT)
    (worker,) = fleet.wait_for_workers(MODEL)
    wait_until(lambda: fleet.status(run_id).samples.ok >= CHUNKS // 20, "the first chunks")
    process = psutil.Process(worker.pid)
    at_first = process.num_fds()
    wait_until(lambda: fleet.status(run_id).state == "done", "the end of the run", deadline_s=300)
    assert process.num_fds() <= at_first + MOST_ADDED
