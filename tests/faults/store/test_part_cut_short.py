"""A damaged part in the store is never counted. The error names the part and the remedy, and only its chunk is run again."""

from collections import Counter
from collections.abc import Callable

import pytest

from common.errors import IntegrityError
from common.storage.keys import part_key, parts_prefix
from common.storage.plan_index import read_chunk, read_index
from tests.support.fleet import Fleet, make_rows
from tests.support.fleet_processes import clean_fleet
from tests.support.planning import run_chunks
from tests.support.producers import run_to_end
from tests.support.soundness import assert_run_is_sound
from tests.support.waiting import wait_until
from tests.support.workers import enqueue_rows

__all__ = ["clean_fleet"]  # a fixture

SAMPLES, CHUNK_SAMPLES = 80, 10
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "empty": lambda content: content[:0],
    "zeros": lambda content: bytes(len(content)),
    "a byte flipped": lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
}


def damage(fleet: Fleet, key: str, how: str) -> None:
    fleet.store.put(key, DAMAGES[how](fleet.store.get(key)))


def delete(fleet: Fleet, key: str) -> None:
    (fleet.folder / "store" / key).unlink()


def start_run(fleet: Fleet, engine: str = "RecordingEngine", **options: object) -> str:
    asked = {"asked": str(fleet.folder / "asked"), **options}
    fleet.write_profile("recording", engine=f"tests.support.engines.dying_engine:{engine}", engine_options=asked)
    return enqueue_rows(fleet, "recording", make_rows(SAMPLES), chunk=CHUNK_SAMPLES)


def find_asked_again(fleet: Fleet) -> set[str]:
    asked = Counter((fleet.folder / "asked").read_text().split())
    return {sample_id for sample_id, times in asked.items() if times > 1}


def run_failing(fleet: Fleet, *arguments: str) -> str:
    """Run a command that must exit with 1; return its error output."""
    ended = run_to_end(fleet, *arguments)
    assert ended.code == 1, ended
    return ended.stderr


def assert_names_part_and_remedy(output: str, run_id: str, number: int) -> None:
    text = " ".join(output.split())
    assert f"part of run {run_id}, chunk {number}" in text
    assert part_key(run_id, 1, number) in text.replace(" ", "")
    assert f"producer resume {run_id} --rebuild" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("how", DAMAGES)
def test_collect_detects_damaged_part(fleet: Fleet, how: str) -> None:
    run_id = start_run(fleet)
    run_chunks(fleet, "recording", run_id)
    damage(fleet, part_key(run_id, 1, 3), how)
    with pytest.raises(IntegrityError) as caught:
        fleet.collect(run_id)
    assert_names_part_and_remedy(str(caught.value), run_id, 3)


def test_part_of_another_chunk_or_run_is_rejected(fleet: Fleet) -> None:
    run_id = start_run(fleet)
    run_chunks(fleet, "recording", run_id)
    another = enqueue_rows(fleet, "recording", make_rows(SAMPLES), chunk=CHUNK_SAMPLES, shuffle={"seed": 1})
    run_chunks(fleet, "recording", another)
    for foreign in (part_key(run_id, 1, 4), part_key(another, 1, 3)):
        fleet.store.put(part_key(run_id, 1, 3), fleet.store.get(foreign))
        with pytest.raises(IntegrityError) as caught:
            fleet.collect(run_id)
        assert_names_part_and_remedy(str(caught.value), run_id, 3)


def test_truncated_committed_part_repeats_only_its_samples(clean_fleet: Fleet) -> None:
    fleet = clean_fleet
    run_id = start_run(fleet, delay_s=0.1)
    fleet.start_workers("recording", chunks_in_flight=2)
    key = wait_until(lambda: next(fleet.store.list_keys(parts_prefix(run_id)), None), "a part")
    number = int(key[-16:-8])
    wait_until(lambda: fleet.status(run_id).samples.ok >= 4 * CHUNK_SAMPLES, "a commit")
    damage(fleet, key, "cut short")

    for command in (["collect", run_id, "--out", str(fleet.folder / "out")], ["evaluate", run_id]):
        assert_names_part_and_remedy(run_failing(fleet, *command), run_id, number)
    assert list((fleet.folder / "out").iterdir()) == []
    fleet.wait_for_end(run_id)

    assert_names_part_and_remedy(run_failing(fleet, "resume", run_id, "--rebuild"), run_id, number)
    delete(fleet, key)
    fleet.run_producer("resume", run_id, "--rebuild")
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert_run_is_sound(fleet, run_id)
    lost = {sample.sample_id for sample in read_chunk(fleet.store, read_index(fleet.store, run_id)[number])}
    assert find_asked_again(fleet) == lost


@pytest.mark.parametrize(("how", "resume"), [("cut short", []), ("empty", ["--rebuild"])], ids=["cut short", "empty"])
def test_damaged_uncommitted_part_pauses_run_until_deleted(clean_fleet: Fleet, how: str, resume: list[str]) -> None:
    """The worker dies after it wrote the part and before it committed it."""
    fleet = clean_fleet
    died_with = fleet.folder / "died_with"
    run_id = start_run(
        fleet, "DyingEngine", delay_s=0.02, die_at="between_part_and_commit", after_chunks=2, died_with=str(died_with)
    )
    fleet.start_workers("recording", chunks_in_flight=1, lease_s=5)
    wait_until(lambda: died_with.exists() and died_with.read_text(), "a worker that died after it wrote its part")
    number = int(died_with.read_text())
    damage(fleet, part_key(run_id, 1, number), how)

    status = wait_until(lambda: found if (found := fleet.status(run_id)).state == "paused" else None, "a paused run")
    assert_names_part_and_remedy(status.reason or "", run_id, number)
    assert_names_part_and_remedy(fleet.run_producer("status", run_id), run_id, number)

    delete(fleet, part_key(run_id, 1, number))
    fleet.run_producer("resume", run_id, *resume)
    assert fleet.wait_for_end(run_id).samples.ok == SAMPLES
    assert_run_is_sound(fleet, run_id)
    assert find_asked_again(fleet) == set(), "the journal must be used"
