"""The collector yields each sample once in plan order or raises an error. Result files appear only after they are complete."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError, IntegrityError
from common.records import Attempt, Outcome
from common.storage.keys import index_key, part_key
from common.storage.parts import encode_part
from common.storage.plan_index import ChunkIndex, read_chunk, read_index
from common.storage.store import Store, open_store
from producer.evaluation.evaluate import evaluate_run
from producer.results.collect import collect_outcomes, collect_rows, read_outcomes, write_results
from tests.support.planning import make_outcome, make_sample, make_samples, make_spec, plan_samples, put_part

# Result columns are a public interface: scripts of users depend on their names and order.
COLUMNS = [
    *("sample_id", "dataset", "index", "model", "status", "prediction", "answer", "target", "response", "attempts", "turns"),
    *("error_code", "error_message", "finish_reason", "prompt_tokens", "output_tokens", "truncated", "video_input"),
    *("worker", "started_at", "finished_at", "metadata"),
]
ATTEMPT_COLUMNS = ["number", "response", "violations", "finish_reason", "temperature", "seed", "latency_s"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def index(store: Store) -> ChunkIndex:
    """Return the index of a plan of 100 samples in 25 chunks of 4."""
    samples = [make_sample(number, metadata={"page": number}) for number in range(100)]
    return plan_samples(store, samples, make_spec(max_samples=4))[1]


def collect(store: Store, index: ChunkIndex) -> list[Outcome]:
    return list(collect_outcomes(index.run_id, store))


def test_outcomes_follow_plan_order(store: Store, index: ChunkIndex) -> None:
    done = {0, 3, 9, 24}
    for number in done:
        put_part(store, index[number], statuses=("ok", "invalid", "failed"))
    outcomes = collect(store, index)
    planned = [sample for chunk in index for sample in read_chunk(store, chunk)]
    assert [outcome.sample_id for outcome in outcomes] == [sample.sample_id for sample in planned]
    reached: tuple[str, ...] = ("ok", "invalid", "failed", "ok")
    found: list[str] = [outcome.status for outcome in outcomes]
    assert found == [status for chunk in index for status in (reached if chunk.number in done else ("unprocessed",) * 4)]
    for sample, outcome, status in zip(planned, outcomes, found, strict=True):
        assert (outcome.dataset, outcome.index) == (sample.dataset, sample.index)
        assert (outcome.target, outcome.metadata) == (sample.target, sample.metadata)
        if status == "unprocessed":
            assert (outcome.prediction, outcome.answer, outcome.response, outcome.attempts) == (None, None, None, ())


def test_rows_with_the_same_request_share_an_outcome(store: Store) -> None:
    samples = [
        make_sample(number, row=number, request_digest=f"r{number % 3}", target=(f"t{number}",), metadata={"page": number})
        for number in range(9)
    ]
    plan, index = plan_samples(store, samples, make_spec(max_samples=2))
    put_part(store, index[0], statuses=("ok", "invalid"))
    outcomes = list(collect_rows(plan.run_id, store))
    assert sorted(outcome.index for outcome in outcomes) == [str(number) for number in range(9)]
    for outcome in outcomes:
        assert (outcome.target, outcome.metadata) == ((f"t{outcome.index}",), {"page": int(outcome.index)})
    by_request = {
        outcome.sample_id: {other.status for other in outcomes if other.sample_id == outcome.sample_id} for outcome in outcomes
    }
    assert sorted(status for (status,) in by_request.values()) == ["invalid", "ok", "unprocessed"]
    assert plan.samples == len(collect(store, index)) == 3
    scores = evaluate_run(plan.run_id, store, outcomes).overall
    assert (scores.rows, scores.ok, scores.invalid, scores.unprocessed) == (9, 3, 3, 3)
    assert scores.coverage == pytest.approx(6 / 9)


def test_unknown_run_is_rejected_before_iteration(store: Store) -> None:
    with pytest.raises(ConfigError, match="no run 'tiny-0'"):
        collect_outcomes("tiny-0", store)


def test_damaged_part_raises_integrity_error(store: Store, index: ChunkIndex) -> None:
    put_part(store, index[2])
    key = part_key(index.run_id, 1, 2)
    content = bytearray(store.get(key))
    content[len(content) // 3] ^= 0xFF
    store.put(key, bytes(content))
    with pytest.raises(IntegrityError, match=f"part of run {index.run_id}, chunk 2"):
        collect(store, index)


@pytest.mark.parametrize("fault", ["other", "fewer", "more", "order"])
def test_part_with_wrong_samples_raises_integrity_error(store: Store, index: ChunkIndex, fault: str) -> None:
    outcomes = [make_outcome(sample) for sample in read_chunk(store, index[5])]
    foreign = make_outcome(make_sample(777))
    held = {
        "other": [*outcomes[:3], foreign],
        "fewer": outcomes[:3],
        "more": [*outcomes, foreign],
        "order": outcomes[::-1],
    }[fault]
    store.put(part_key(index.run_id, 1, 5), encode_part(index.run_id, 5, held))
    named = {"other": "rows-000777", "fewer": outcomes[3].sample_id, "more": "rows-000777", "order": outcomes[0].sample_id}[fault]
    with pytest.raises(
        IntegrityError, match=rf"parts/w1/00000005\.parquet does not hold the samples of its chunk; differing: .*{named}"
    ):
        read_outcomes(store, index[5])


def test_part_of_another_chunk_raises_integrity_error(store: Store, index: ChunkIndex) -> None:
    put_part(store, index[5])
    store.put(part_key(index.run_id, 1, 6), store.get(part_key(index.run_id, 1, 5)))
    with pytest.raises(IntegrityError, match=r"chunk 6.*chunk 5"):
        collect(store, index)


def test_index_with_too_few_chunks_raises_integrity_error(store: Store, index: ChunkIndex) -> None:
    other = make_spec(max_samples=4, seed=1)
    plan_samples(store, make_samples(8), other)
    store.put(index_key(index.run_id), store.get(index_key(other.run_id)))
    assert len(read_index(store, index.run_id)) == 2
    with pytest.raises(IntegrityError, match="its plan has 25 chunks, but its index has 2"):
        collect(store, index)


def test_results_have_the_contract_columns_in_order(store: Store, index: ChunkIndex, tmp_path: Path) -> None:
    put_part(store, index[0], statuses=("ok", "invalid", "failed"))
    statuses = write_results(collect_outcomes(index.run_id, store), tmp_path / "out")
    table = pq.ParquetFile(tmp_path / "out" / "results.parquet").read()
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert table.schema.names == COLUMNS
    assert [field.name for field in table.schema.field("attempts").type.value_type] == ATTEMPT_COLUMNS
    assert all(list(line) == COLUMNS for line in lines)
    assert statuses == {"ok": 2, "invalid": 1, "failed": 1, "unprocessed": 96}
    rows = table.to_pylist()
    assert [(row["sample_id"], row["status"]) for row in rows] == [(line["sample_id"], line["status"]) for line in lines]
    assert [row["sample_id"] for row in rows] == [sample.sample_id for chunk in index for sample in read_chunk(store, chunk)]


def test_result_row_equals_its_outcome(tmp_path: Path) -> None:
    attempt = Attempt(
        number=1, response="B\n中", violations=("no_refusal",), finish_reason="stop", temperature=0.5, seed=7, latency_s=0.25
    )
    outcome = make_outcome(make_sample(1, metadata={"l2-category": "头"})).model_copy(
        update={"response": "B\n中", "answer": "B", "attempts": (attempt,), "started_at": 1.5, "finished_at": 2.0}
    )
    assert write_results(iter([outcome]), tmp_path) == {"ok": 1}
    [row] = pq.ParquetFile(tmp_path / "results.parquet").read().to_pylist()
    [line] = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["attempts"] == line["attempts"] == [attempt.model_dump(mode="json")]
    assert json.loads(row["metadata"]) == line["metadata"] == {"l2-category": "头"}
    assert (
        (row["target"], row["answer"], row["response"])
        == (line["target"], line["answer"], line["response"])
        == (["ok"], "B", "B\n中")
    )
    assert (row["started_at"].timestamp(), line["started_at"]) == (1.5, 1.5)


def test_incomplete_results_are_not_visible(tmp_path: Path) -> None:
    def break_off() -> Iterator[Outcome]:
        for number in range(5000):  # more than one block
            yield make_outcome(make_sample(number))
        assert not any((folder / name).exists() for name in ("results.parquet", "results.jsonl"))
        raise IntegrityError("part 79 is damaged")

    folder = tmp_path / "out"
    with pytest.raises(IntegrityError):
        write_results(break_off(), folder)
    assert list(folder.iterdir()) == []


def test_failed_write_keeps_earlier_results(tmp_path: Path) -> None:
    def break_off() -> Iterator[Outcome]:
        yield make_outcome(make_sample(2))
        raise IntegrityError("part 0 is damaged")

    write_results(iter([make_outcome(make_sample(1))]), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(IntegrityError):
        write_results(break_off(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sorted(before) == ["results.jsonl", "results.parquet"]


def test_unwritable_folder_raises_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"results cannot be written to .*/file/out: .*Not a directory"):
        write_results(iter([]), tmp_path / "file" / "out")
