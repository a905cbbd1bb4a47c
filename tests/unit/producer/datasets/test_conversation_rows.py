"""Rows with a conversation become samples with messages."""

from pathlib import Path
from typing import Any

import pytest

from common.digests import digest_bytes
from common.records import Media
from tests.support.datasets import fault_of, read_rows, read_unsurveyed, talk


def test_conversation_becomes_messages_and_target(tmp_path: Path) -> None:
    (sample,) = read_unsurveyed(
        tmp_path, {"id": "c", "image": "a.png", "messages": talk("<image>1?", "one", "2?", "two"), "topic": "z"}
    )
    assert (sample.index, sample.question, sample.target, sample.metadata) == ("c", "2?", ("two",), {"topic": "z"})
    assert [(message.role, message.content) for message in sample.messages] == [
        ("user", (0, "1?")), ("assistant", ("one",)), ("user", ("2?",)),
    ]  # fmt: skip
    assert sample.media == (Media(uri=f"{tmp_path}/a.png"),)


def test_batch_line_becomes_messages(tmp_path: Path) -> None:
    body = {"model": "m", "messages": talk("Why?")}
    (sample,) = read_unsurveyed(tmp_path, {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert (sample.index, sample.question, sample.fault) == ("r1", "Why?", None)
    assert sample.metadata == {"method": "POST", "url": "/v1/chat/completions"}


@pytest.mark.parametrize("field", ["messages", "conversations", "conversation", "dialogue"])
def test_conversation_may_stand_in_several_fields(tmp_path: Path, field: str) -> None:
    fields = {"messages": "dialogue"} if field == "dialogue" else {}
    (sample,) = read_unsurveyed(tmp_path, {field: talk("Why?")}, fields=fields)
    assert [message.content for message in sample.messages] == [("Why?",)]


def test_question_takes_precedence_over_conversation(tmp_path: Path) -> None:
    row = {"question": "Q?", "messages": talk("Why?"), "body": "a text"}
    (plain,), (mapped,) = read_unsurveyed(tmp_path, row), read_unsurveyed(tmp_path, row, fields={"messages": "messages"})
    assert (plain.question, plain.messages, plain.metadata) == ("Q?", (), {"messages": talk("Why?"), "body": "a text"})
    assert (mapped.question, mapped.metadata) == ("Why?", {"body": "a text"})


def test_target_field_takes_precedence_over_last_turn(tmp_path: Path) -> None:
    rows = [{"messages": talk("Which?", "dog"), "options": ["cat", "dog"], **more} for more in ({}, {"answer": "A"})]
    assert [sample.target for sample in read_unsurveyed(tmp_path, *rows)] == [("B",), ("A",)]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": talk("Why?")},
        {"messages": talk("Why ?")},
        {"messages": talk("What?", "x", "Why?")},
        {"messages": talk([{"type": "text", "text": "Why?"}, {"type": "image", "image": "b.png"}])},
        {"messages": talk([{"type": "image", "image": "b.png"}, {"type": "text", "text": "Why?"}])},
        {"messages": talk("Why?", "answer")},
        {"image": "b.png"},
    ],
)
def test_sample_id_covers_the_conversation(tmp_path: Path, change: dict[str, Any]) -> None:
    first, second = read_unsurveyed(
        tmp_path, {"messages": talk("Which?"), "image": "a.png"}, {"messages": talk("Which?"), "image": "a.png"} | change
    )
    assert first.fault is second.fault is None
    assert first.sample_id != second.sample_id


def test_faulty_conversation_names_its_field(tmp_path: Path) -> None:
    code, message = fault_of(read_unsurveyed(tmp_path, {"messages": [*talk("1?"), *talk("2?")]})[0])
    assert code == "bad_field"
    assert message.startswith("set.jsonl: line 1: field 'messages': turns 1 and 2 are both of the user")


def test_media_of_parts_are_digested(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    (sample,) = read_rows(tmp_path, {"messages": talk([{"type": "image_url", "image_url": {"url": "a.png"}}, "What?"])})
    assert sample.media == (Media(uri=f"{tmp_path}/a.png", digest=digest_bytes(b"picture")),)
