"""What the ledger names to a worker that will not begin it goes to another at once, not after a lease."""

import threading

import pytest

from tests.support.fleet import Fleet, make_rows
from tests.support.workers import Exited, enqueue_rows, exits, open_slot
from workers.recovery.janitor import sweep
from workers.runtime import worker as slot_module

__all__ = ["exits"]  # a fixture

FAR = 600.0  # s; whatever waits for a lease waits for longer than the test


def name_chunk(fleet: Fleet, run_id: str) -> None:
    """Let chunk 0 be given back, and named to whoever asks first."""
    lease = fleet.ledger.acquire(run_id, 0, "dead@test")
    assert lease is not None
    fleet.ledger.release(lease)
    assert fleet.ledger.expire_leases(run_id) == [0]
    assert fleet.ledger.expire_leases(run_id) == []


def test_a_draining_worker_declines_what_was_named_to_it(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    with open_slot(fleet, "tried", lease_s=FAR, janitor_s=FAR) as slot:
        run_id = enqueue_rows(fleet, "tried", make_rows(4))
        name_chunk(fleet, run_id)
        slot.drain()
        slot.take_over(run_id, 0)
        slot.stop()
        assert fleet.ledger.expire_leases(run_id) == [0]
        name = enqueue_rows(fleet, "tried", make_rows(5))
        name_chunk(fleet, name)
        slot.take_over(name, 0)  # its threads have ended
        assert fleet.ledger.expire_leases(name) == [0]
        slot.stop = lambda: None  # type: ignore[method-assign]  # it was stopped here


def test_a_dying_worker_declines_what_it_has_not_begun(fleet: Fleet, exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.write_profile("tried")
    dead = threading.Event()
    with open_slot(fleet, "tried", lease_s=FAR, janitor_s=FAR) as slot:
        run_id = enqueue_rows(fleet, "tried", make_rows(4))
        name_chunk(fleet, run_id)
        load_run = slot.load_run
        monkeypatch.setattr(slot, "load_run", lambda run_id: dead.wait(20) and load_run(run_id))  # the store is slow
        slot.take_over(run_id, 0)
        with pytest.raises(Exited):
            slot.die("the accelerator fell off the bus")
        assert fleet.ledger.expire_leases(run_id) == [0]
        dead.set()


def test_a_worker_that_is_told_to_end_in_its_first_sweep_drains(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[bool] = []
    monkeypatch.setattr(slot_module, "sweep", lambda _, slot, *__, **___: ready.append(slot.ready))
    fleet.write_profile("tried")
    with open_slot(fleet, "tried"):
        assert ready[0], "else a signal would end the process at once, whatever the sweep has taken over"


def test_a_first_sweep_that_fails_does_not_end_the_worker(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = threading.Event()

    def fail_once(*given: object, **named: object) -> None:
        if not swept.is_set():
            swept.set()
            raise RuntimeError("the broker is away")

    monkeypatch.setattr(slot_module, "sweep", fail_once)
    fleet.write_profile("tried")
    with open_slot(fleet, "tried") as slot:
        assert swept.is_set()
        assert slot.ready


def test_what_was_given_back_is_taken_over_also_while_leases_tell_nothing(fleet: Fleet) -> None:
    fleet.write_profile("tried")
    with open_slot(fleet, "tried", janitor_s=FAR) as slot:
        run_id = enqueue_rows(fleet, "tried", make_rows(40), chunk=10)
        slot.ledger.client.delete("fleet:janitor:tried", "fleet.tried")
        silent, given_back = (slot.ledger.acquire(run_id, chunk, "other@test") for chunk in (0, 1))
        assert silent is not None
        assert given_back is not None
        slot.ledger.client.zadd(f"fleet:{{{run_id}}}:leases", {"0": 1})  # nobody could renew it
        slot.ledger.release(given_back)
        settings = fleet.settings.model_copy(update={"janitor_s": 0.05})
        assert sweep(slot._app, slot, settings, "tried", trusts_leases=False) == 1  # noqa: SLF001  # the slot's own
        assert slot.ledger.renew(run_id, [silent]) == [], "its holder lives"
