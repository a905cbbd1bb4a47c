"""Parts store outcomes exactly, and a damaged part raises an error."""

import json
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IntegrityError
from common.records import Attempt, Outcome, TurnAnswer, VideoInput
from common.storage.parts import OUTCOME_SCHEMA, decode_part, encode_part, to_table

CONTRACT_COLUMNS = (
    "sample_id, dataset, index, model, status, prediction, answer, target, response, attempts, turns, error_code, error_message, "
    "finish_reason, prompt_tokens, output_tokens, truncated, video_input, worker, started_at, finished_at, metadata"
)
CONTRACT_ATTEMPT = "number, response, violations, finish_reason, temperature, seed, latency_s"
CONTRACT_TURN = (
    "number, response, prediction, target, attempts, finish_reason, prompt_tokens, output_tokens, temperature, seed, latency_s"
)

texts = st.text(max_size=20)
times = st.integers(0, 4_000_000_000_000_000).map(lambda microseconds: microseconds / 1_000_000)
finite = st.floats(0, 100, allow_nan=False)
attempts = st.builds(
    Attempt,
    number=st.integers(1, 20),
    response=texts,
    violations=st.lists(texts, max_size=2).map(tuple),
    temperature=finite,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    latency_s=finite,
)
turns = st.builds(
    TurnAnswer,
    number=st.integers(1, 20),
    response=texts,
    prediction=texts,
    target=st.none() | texts,
    attempts=st.integers(1, 20),
    finish_reason=st.sampled_from(["stop", None]),
    output_tokens=st.none() | st.integers(0, 2**40),
    temperature=finite,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    latency_s=finite,
)
metadata = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
outcomes = st.builds(
    Outcome,
    sample_id=texts,
    dataset=texts,
    index=st.integers() | texts | st.integers().map(str),
    model=texts,
    prediction=st.none() | texts,
    answer=st.none() | texts,
    target=st.lists(texts, max_size=3).map(tuple),
    response=st.none() | texts,
    attempts=st.lists(attempts, max_size=3).map(tuple),
    turns=st.lists(turns, max_size=2).map(tuple),
    error_code=st.none() | texts,
    error_message=st.none() | texts,
    prompt_tokens=st.none() | st.integers(0, 2**40),
    output_tokens=st.none() | st.integers(0, 2**40),
    video_input=st.none() | st.sampled_from(VideoInput),
    worker=st.none() | texts,
    started_at=st.none() | times,
    finished_at=st.none() | times,
    metadata=st.dictionaries(texts, metadata, max_size=3),
)


def make_outcome(number: int = 0, **fields: Any) -> Outcome:
    attempt = Attempt(number=1, response="A", violations=("too_short",), finish_reason="stop", seed=3, latency_s=0.25)
    given_fields = {"sample_id": f"s{number}", "dataset": "digits", "index": number, "model": "tiny", "status": "ok", **fields}
    return Outcome.model_validate({"attempts": (attempt,), "target": ("A",), "started_at": 1.5, **given_fields})


@given(st.lists(outcomes, max_size=5))
def test_outcomes_survive_a_round_trip(given_outcomes: list[Outcome]) -> None:
    content = encode_part("run-1", 7, given_outcomes)
    assert decode_part(content, run_id="run-1", chunk=7) == tuple(given_outcomes)


def test_index_is_text() -> None:
    """Earlier versions stored numbers in plans and journals."""
    indexes = (7, "7", -1, "-1", "007", "q7", 10**30)
    back = decode_part(encode_part("r", 0, [make_outcome(index=index) for index in indexes]), run_id="r", chunk=0)
    assert tuple(outcome.index for outcome in back) == tuple(map(str, indexes))


def test_times_are_kept_to_the_microsecond() -> None:
    outcome = make_outcome(started_at=1_700_000_000.123456789)
    assert to_table([outcome])["started_at"].cast(pa.int64()).to_pylist() == [1_700_000_000_123_457]


def test_columns_match_the_contract() -> None:
    attempt = OUTCOME_SCHEMA.field("attempts").type.value_type
    assert ", ".join(OUTCOME_SCHEMA.names) == ", ".join(Outcome.model_fields) == CONTRACT_COLUMNS
    assert ", ".join(field.name for field in attempt) == ", ".join(Attempt.model_fields) == CONTRACT_ATTEMPT
    turn = OUTCOME_SCHEMA.field("turns").type.value_type
    assert ", ".join(field.name for field in turn) == ", ".join(TurnAnswer.model_fields) == CONTRACT_TURN
    assert to_table([]).schema == to_table([make_outcome()]).schema == OUTCOME_SCHEMA


def test_part_without_turns_has_the_earlier_columns() -> None:
    """Workers and producers of earlier versions accept only these columns."""
    content = encode_part("run-1", 7, [make_outcome()])
    earlier = [name for name in OUTCOME_SCHEMA.names if name != "turns"]
    assert pq.ParquetFile(pa.BufferReader(content)).schema_arrow.names == earlier
    assert decode_part(content, run_id="run-1", chunk=7) == (make_outcome(),)


def test_nan_is_never_written() -> None:
    nan, infinity = float("nan"), float("inf")
    attempt = Attempt(number=1, response="", temperature=nan, latency_s=infinity)
    row = to_table([make_outcome(attempts=(attempt,), started_at=nan, metadata={"a": [nan, {"b": -infinity}]})]).to_pylist()[0]
    assert (row["started_at"], row["attempts"][0]["temperature"], row["attempts"][0]["latency_s"]) == (None, None, None)
    assert json.loads(row["metadata"]) == {"a": [None, {"b": None}]}


def test_text_outside_utf8_is_replaced() -> None:
    lone, pair = "a\ud800b", "\ud83d\ude00"
    attempt = Attempt(number=1, response=lone)
    outcome = make_outcome(index=lone, response=pair, target=(lone, "fine"), attempts=(attempt,), metadata={lone: [lone]})
    (back,) = decode_part(encode_part("r", 0, [outcome]), run_id="r", chunk=0)
    replaced = "a\ufffdb"
    assert (back.index, back.response, back.target) == (replaced, "😀", (replaced, "fine"))
    assert (back.attempts[0].response, back.metadata) == (replaced, {replaced: [replaced]})


def test_values_unsupported_by_json_become_text() -> None:
    assert json.loads(to_table([make_outcome(metadata={"at": complex(1, 2)})])["metadata"][0].as_py()) == {"at": "(1+2j)"}


def test_counts_are_readable_without_the_rows() -> None:
    statuses = ("ok", "ok", "invalid", "failed")
    content = encode_part("run-1", 7, [make_outcome(status=status) for status in statuses])
    notes = pq.ParquetFile(pa.BufferReader(content)).metadata.metadata
    assert (notes[b"run_id"], notes[b"chunk"]) == (b"run-1", b"7")
    assert json.loads(notes[b"counts"]) == {"ok": 2, "invalid": 1, "failed": 1}


def test_part_of_an_earlier_version_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = pa.schema([field for field in OUTCOME_SCHEMA if field.name != "video_input"])
    outcome = make_outcome()
    with monkeypatch.context() as patched:
        patched.setattr("common.storage.parts.OUTCOME_SCHEMA", earlier)
        content = encode_part("r", 0, [outcome])
    assert "video_input" not in pq.read_schema(pa.BufferReader(content)).names
    assert decode_part(content, run_id="r", chunk=0) == (outcome,)


@pytest.mark.parametrize(("run_id", "chunk"), [("run-2", 7), ("run-1", 8)])
def test_part_of_another_chunk_is_rejected(run_id: str, chunk: int) -> None:
    content = encode_part("run-1", 7, [make_outcome()])
    with pytest.raises(IntegrityError, match=f"run {run_id}, chunk {chunk}: the object belongs to run run-1, chunk 7"):
        decode_part(content, run_id=run_id, chunk=chunk)


def test_part_with_wrong_counts_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.storage.parts.to_table", lambda rows: to_table(rows[:1]))
    one_row = encode_part("r", 0, [make_outcome(0), make_outcome(1)])
    monkeypatch.setattr("common.storage.parts._count_statuses", lambda _: {"ok": 2, "invalid": 0, "failed": 0})
    monkeypatch.setattr("common.storage.parts.to_table", to_table)
    wrong_counts = encode_part("r", 0, [make_outcome(0)])
    monkeypatch.undo()
    for content in (one_row, wrong_counts):
        with pytest.raises(IntegrityError, match="run r, chunk 0"):
            decode_part(content, run_id="r", chunk=0)


def test_other_parquet_file_is_rejected() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    for content in (sink.getvalue().to_pybytes(), b"", b"PAR1", b"not parquet at all"):
        with pytest.raises(IntegrityError, match="run r, chunk 0"):
            decode_part(content, run_id="r", chunk=0)


@given(st.randoms(use_true_random=False))
def test_damaged_part_is_rejected_or_unchanged(chance: random.Random) -> None:
    rows = tuple(make_outcome(number, metadata={"split": "test"}) for number in range(3))
    content = bytearray(encode_part("run-1", 7, rows))
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    damaged = bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
    try:
        assert decode_part(damaged, run_id="run-1", chunk=7) == rows
    except IntegrityError as error:
        assert "run run-1, chunk 7" in str(error)  # noqa: PT017  # an error and equal rows are both correct; wrong rows are not
