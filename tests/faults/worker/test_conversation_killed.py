"""A worker gets SIGKILL in the middle of a conversation: the conversation is repeated from its first turn, and nothing is lost."""

from collections import Counter
from typing import Any

import pytest

from tests.support.asked_samples import find_stored
from tests.support.fleet import Fleet
from tests.support.soundness import assert_run_is_sound

CHUNK_SAMPLES = 8
ROWS = 40
TURNS = 3


def make_conversation(number: int) -> dict[str, Any]:
    """Return a row with three turns. The answer to turn 2 of row 7 is ``answer 2 of 7`` (``RULES``)."""
    return {"id": number, "question": [f"turn {turn} of {number}?" for turn in range(1, TURNS + 1)], "answer": ["x", "y", "z"]}


RULES = [
    {"match": rf"turn {turn} of {number}\?", "answers": [f"answer {turn} of {number}"]}
    for number in range(ROWS)
    for turn in range(1, TURNS + 1)
]


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_killed_conversation_is_repeated_as_a_whole(fleet: Fleet, turn: int) -> None:
    options = {
        "die_at_turn": turn,
        "after": 2 * CHUNK_SAMPLES + 3,
        "died_with": str(fleet.folder / "died_with"),
        "asked": str(fleet.folder / "asked"),
        "delay_s": 0.01,
        "table": RULES,
    }
    fleet.write_profile("mortal", engine="tests.support.engines.dying_engine:TurnDyingEngine", engine_options=options)
    rows = fleet.write_dataset("rows", map(make_conversation, range(ROWS)))
    spec = fleet.write_spec("mortal", [rows], chunks={"max_samples": CHUNK_SAMPLES}, prompt={"multi_turn": "ask"})
    run_id = fleet.enqueue(spec).run_id
    fleet.start_workers("mortal", chunks_in_flight=1)

    assert fleet.wait_for_end(run_id).samples.ok == ROWS

    assert_run_is_sound(fleet, run_id)
    outcomes = fleet.collect(run_id)
    for outcome in outcomes:
        assert [one.response for one in outcome.turns] == [f"answer {number} of {outcome.index}" for number in range(1, TURNS)]
        assert (outcome.response, outcome.target) == (f"answer {TURNS} of {outcome.index}", ("z",))
        assert [one.target for one in outcome.turns] == ["x", "y"]
    asked = Counter((fleet.folder / "asked").read_text().split())
    died_with = (fleet.folder / "died_with").read_text()
    killed = {sample_id.partition(".")[0] for sample_id, times in asked.items() if times > 1} | {died_with.partition(".")[0]}
    assert len(killed) <= CHUNK_SAMPLES, "only the chunk in flight may be asked again"
    assert find_stored(fleet, run_id) == {outcome.sample_id for outcome in outcomes}
    for outcome in outcomes:
        asked_turns = [asked[f"{outcome.sample_id}.{number}"] for number in range(1, TURNS)] + [asked[outcome.sample_id]]
        assert asked_turns == sorted(asked_turns, reverse=True), "a repeated conversation begins with its first turn"
        assert asked_turns[-1] >= 1
        assert asked_turns[0] <= 2
