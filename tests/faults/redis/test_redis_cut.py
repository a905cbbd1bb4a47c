"""Redis closes its connections repeatedly under load, or the connections stall: samples are not sent twice."""

import random

from common.storage.keys import parts_prefix
from tests.support.asked_samples import count_asked_again
from tests.support.faults.redis_faults import RECORDING, cut_connections, write_recording_profile
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.servers.stalling_proxy import start_stalling_proxy
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

CHUNKS = 80
CUTS = 25


def test_repeatedly_closed_connections_do_not_lose_samples(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_recording_profile(fleet, delay_s=0.1)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(4 * CHUNKS), chunk=4)
    for _ in range(2):
        fleet.start_workers(RECORDING, chunks_in_flight=2)
    fleet.wait_for_workers(RECORDING, 2)
    cut = 0
    for parts in sorted(random.Random(3).sample(range(1, CHUNKS - 8), CUTS)):
        wait_until(lambda parts=parts: count_parts(fleet, run_id) >= parts, f"{parts} parts")  # type: ignore[misc]  # bound by default
        cut += cut_connections(fleet)
    assert fleet.wait_for_end(run_id).samples.ok == 4 * CHUNKS
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0
    assert fleet.read_log().count("worker.started") == 2, "a lost connection must not stop a worker"
    assert cut > CUTS


def test_stalled_connections_do_not_lose_leases_or_samples(clean_fleet: Fleet) -> None:
    """The connections stay open, as after a failover or a NAT timeout; a new connection works."""
    fleet = clean_fleet
    write_recording_profile(fleet, delay_s=0.1)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(4 * CHUNKS), chunk=4)
    with start_stalling_proxy(fleet.settings.redis_url.get_secret_value()) as (url, link):
        for _ in range(2):
            fleet.start_workers(RECORDING, chunks_in_flight=2, redis_url=url, lease_s=9, renew_s=1)
        fleet.wait_for_workers(RECORDING, 2)
        wait_until(lambda: count_parts(fleet, run_id) >= 20, "20 parts")
        link.stall()
        assert fleet.wait_for_end(run_id).samples.ok == 4 * CHUNKS
        fleet.stop_workers()
    assert_run_is_sound(fleet, run_id)
    assert count_asked_again(fleet) == 0
    log = fleet.read_log()
    assert log.count("worker.started") == 2, "a stalled connection must not stop a worker"
    assert "chunk.taken_over" not in log, "a live worker must not count as dead"


def test_ledger_commands_survive_connection_loss(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    write_recording_profile(fleet)
    run_id = enqueue_rows(fleet, RECORDING, make_rows(40), chunk=4)
    ledger = fleet.ledger
    for number in range(10):
        cut_connections(fleet)
        lease = ledger.acquire(run_id, number, "worker@test")
        assert lease is not None
        cut_connections(fleet)
        assert ledger.renew(run_id, [lease]) == []
        cut_connections(fleet)
        assert ledger.release(lease)
    fleet.start_workers(RECORDING)
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)


def count_parts(fleet: Fleet, run_id: str) -> int:
    return len(list(fleet.store.list_keys(parts_prefix(run_id))))
