"""A dataset with every kind of fault: status, results and evaluation show exact counts."""

import base64
import io
import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.fleet import Fleet
from tests.support.soundness import assert_run_is_sound

Rows = list[dict[str, object]]

REFUSAL = "I'm sorry, I can't help with that."


def encode_image(shade: int) -> str:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def make_troubled_rows() -> Rows:
    """Return 100 rows: 83 plain rows, 10 of them with a target that differs from the answer, and 17 duplicate or faulty rows."""
    plain: Rows = [{"question": f"plain {n}?", "target": "no" if n < 10 else "ok", "image": encode_image(n)} for n in range(83)]
    corrupt: Rows = [{"question": f"corrupt {n}?", "target": "ok", "image": encode_image(n)[:-40] + "A" * 16} for n in range(3)]
    missing: Rows = [{"question": "missing?", "target": "ok", "image": "nowhere.png"}]
    unasked: Rows = [{"target": "ok", "note": 1}, {"question": "  ", "target": "ok"}]
    shy: Rows = [{"question": f"shy {n}?", "target": "ok"} for n in range(4)]
    stubborn: Rows = [{"question": f"stubborn {n}?", "target": "ok"} for n in range(2)]
    rows = [*plain, *plain[20:25], *corrupt, *missing, *unasked, *shy, *stubborn]
    assert len(rows) == 100
    return [{"id": number, **row} for number, row in enumerate(rows)]


@pytest.fixture
def ended(fleet: Fleet) -> str:
    """Run the dataset, assert that the results are sound, and return the run's id."""
    table = [{"match": "shy", "answers": [REFUSAL, REFUSAL, "ok"]}, {"match": "stubborn", "answers": [REFUSAL]}]
    fleet.write_profile("moody", engine_options={"table": table})
    validation = {"max_attempts": 4, "validators": ["non_empty", "no_refusal"]}
    source = {"path": str(fleet.write_dataset("troubled", make_troubled_rows())), "kind": "short_text"}
    run_id = fleet.enqueue(fleet.write_spec("moody", [source], validation=validation, chunks={"max_samples": 16})).run_id
    fleet.start_workers("moody")
    fleet.wait_for_end(run_id)
    assert_run_is_sound(fleet, run_id)
    return run_id


def test_status_results_and_evaluation_show_exact_counts(fleet: Fleet, ended: str) -> None:
    expected = {"rows": 100, "unique": 95, "duplicates": 5, "ok": 87, "invalid": 2, "failed": 6, "in_flight": 0, "unprocessed": 0}
    status = json.loads(fleet.run_producer("status", ended, "--json"))
    assert status["state"] == "done"
    assert status["samples"] == expected
    assert status["datasets"] == {"troubled": expected}

    collected = json.loads(fleet.run_producer("collect", ended, "--out", str(fleet.folder / "out"), "--json", code=1))
    assert collected["samples"] == {"ok": 92, "invalid": 2, "failed": 6}
    rows = pq.ParquetFile(fleet.folder / "out" / "results.parquet").read().to_pylist()
    lines = [json.loads(line) for line in (fleet.folder / "out" / "results.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == 100
    assert (
        Counter(row["status"] for row in rows) == Counter(line["status"] for line in lines) == {"ok": 92, "invalid": 2, "failed": 6}
    )
    assert Counter(row["error_code"] for row in rows if row["status"] == "failed") == {
        "media_corrupt": 3,
        "media_missing": 1,
        "missing_question": 2,
    }
    assert Counter(len(row["attempts"]) for row in rows) == {0: 6, 1: 88, 3: 4, 4: 2}
    refused = [row for row in rows if row["status"] == "invalid"]
    assert all(attempt["violations"] == ["no_refusal"] for row in refused for attempt in row["attempts"])
    assert all(row["prediction"] is None and row["response"] is None for row in rows if row["status"] == "failed")

    assert sorted(int(row["index"]) for row in rows) == list(range(100))

    evaluation = json.loads(fleet.run_producer("evaluate", ended, "--json", code=1))
    (scores,) = evaluation["datasets"]
    assert (scores["n"], scores["hits"], scores["first_attempt_hits"]) == (94, 82, 78)
    assert scores["accuracy"] == pytest.approx(82 / 94)
    assert scores["invalid_rate"] == pytest.approx(2 / 94)
    assert (scores["ok"], scores["invalid"], scores["failed"], scores["unprocessed"]) == (92, 2, 6, 0)
    assert (scores["retried"], scores["failures"]) == (6, {"media_corrupt": 3, "missing_question": 2, "media_missing": 1})


def test_enqueue_of_finished_run_does_not_publish(fleet: Fleet, ended: str) -> None:
    again = fleet.enqueue(fleet.folder / "moody.spec.yaml")
    assert (again.run_id, again.planned, again.opened, again.rung) == (ended, False, False, 0)
