"""Conversations of LLaVA, OpenAI and Hugging Face become messages with their media in place."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SampleError
from common.records import Media
from producer.datasets.media import MediaKind, Place, Reference, read_references, refer
from producer.datasets.values.conversations import Conversation, read_conversation


def read(value: Any, *own: str, asks_turns: bool = False) -> Conversation:
    """Read a conversation of a row with these own media. The ending .mp4 makes a video."""
    references = [refer(name, "video" if name.endswith(".mp4") else "image", "/m") for name in own]

    def read_media(value: Any, kind: MediaKind) -> list[Reference]:
        return read_references(value, kind, Place("set.jsonl", b"", None), "/m")

    return read_conversation(value, references, read_media, asks_turns=asks_turns)


def show(value: Any, *own: str, asks_turns: bool = False) -> list[tuple[str, list[str]]]:
    """Return (role, content) of each message. Media are shown as ``(name)``."""
    conversation = read(value, *own, asks_turns=asks_turns)
    names = [f"({reference.key.partition(':')[2]})" for reference in conversation.media]
    messages = conversation.messages
    return [(message.role, [names[part] if isinstance(part, int) else part for part in message.content]) for message in messages]


def llava(*turns: str) -> list[dict[str, str]]:
    """Return LLaVA turns of human and gpt in alternation."""
    return [{"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(turns)]


def ask(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


FORMS: dict[str, tuple[Any, tuple[str, ...], list[tuple[str, list[str]]]]] = {
    "llava, marker first": (llava("<image>\nWhat?", "red"), ("a.png",), [("user", ["(a.png)", "What?"])]),
    "llava, marker last": (llava("What?\n<image>"), ("a.png",), [("user", ["What?", "(a.png)"])]),
    "llava, marker within a line": (llava("Is <image> red?"), ("a.png",), [("user", ["Is ", "(a.png)", " red?"])]),
    "llava, two markers": (llava("<image>\n<image>\nWhich?"), ("a.png", "b.png"), [("user", ["(a.png)", "(b.png)", "Which?"])]),
    "llava, numbered markers": (llava("<image 2>or<image1>?"), ("a.png", "b.png"), [("user", ["(b.png)", "or", "(a.png)", "?"])]),
    "llava, same number twice": (llava("<image 1><image 1>"), ("a.png",), [("user", ["(a.png)", "(a.png)"])]),
    "llava, number before the next": (llava("<image 2><image>"), ("a.png", "b.png"), [("user", ["(b.png)", "(a.png)"])]),
    "llava, no marker": (llava("What?"), ("a.png", "b.png"), [("user", ["(a.png)", "(b.png)", "What?"])]),
    "llava, earlier turns": (
        llava("<image>\n1?", "one", "2?", "two"),
        ("a.png",),
        [("user", ["(a.png)", "1?"]), ("assistant", ["one"]), ("user", ["2?"])],
    ),
    "llava, media in two turns": (
        llava("<image>\n1?", "one", "<image>\n2?"),
        ("a.png", "b.png"),
        [("user", ["(a.png)", "1?"]), ("assistant", ["one"]), ("user", ["(b.png)", "2?"])],
    ),
    "llava, system": (
        [{"from": "system", "value": "Be brief."}, *llava("Why?")], (), [("system", ["Be brief."]), ("user", ["Why?"])],
    ),
    "openai, developer": (
        [{"role": "developer", "content": "Be brief."}, *ask("Why?")], (), [("system", ["Be brief."]), ("user", ["Why?"])],
    ),
    "no calls of tools": ([*ask("1?"), {"role": "assistant", "content": "2", "tool_calls": []}], (), [("user", ["1?"])]),
    "llava, video": (llava("<video>\nWhat?"), ("a.mp4",), [("user", ["(a.mp4)", "What?"])]),
    "llava, image and video": (llava("<video> and <image>"), ("a.png", "b.mp4"), [("user", ["(b.mp4)", " and ", "(a.png)"])]),
    "openai, text": ([{"role": "user", "content": "Why?"}], (), [("user", ["Why?"])]),
    "openai, parts": (
        ask({"type": "text", "text": "1:"}, image_part("a.png"), {"type": "text", "text": "2:"}, image_part("b.png")),
        (),
        [("user", ["1:", "(a.png)", "2:", "(b.png)"])],
    ),
    "openai, responses": (
        ask({"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": "https://h/a.png"}),
        (),
        [("user", ["What?", "(https://h/a.png)"])],
    ),
    "openai, video": (ask({"type": "video_url", "video_url": {"url": "a.mp4"}}, "What?"), (), [("user", ["(a.mp4)", "What?"])]),
    "openai, adjacent texts": (ask("a", {"type": "text", "text": "b"}), (), [("user", ["ab"])]),
    "openai, marker is text": (ask("What is <image> in HTML?"), (), [("user", ["What is <image> in HTML?"])]),
    "openai, marker beside parts": (ask(image_part("a.png"), "the <image>"), (), [("user", ["(a.png)", "the <image>"])]),
    "openai, marker with own media": (ask("<image>\nWhat?"), ("a.png",), [("user", ["(a.png)", "\nWhat?"])]),
    "openai, batch body": ({"model": "m", "messages": ask("Why?")}, (), [("user", ["Why?"])]),
    "openai, responses body": (
        {"instructions": "Be brief.", "input": ask("Why?")}, (), [("system", ["Be brief."]), ("user", ["Why?"])],
    ),
    "hugging face, slots": (
        ask({"type": "image"}, {"type": "text", "text": "or"}, {"type": "image"}),
        ("a.png", "b.png"),
        [("user", ["(a.png)", "or", "(b.png)"])],
    ),
    "hugging face, indices": (
        ask({"type": "image", "index": 1}, {"type": "text", "text": "or", "index": None}, {"type": "image", "index": 0}),
        ("a.png", "b.png"),
        [("user", ["(b.png)", "or", "(a.png)"])],
    ),
    "hugging face, same index twice": (
        ask({"type": "image", "index": 0}, {"type": "image", "index": 0}), ("a.png",), [("user", ["(a.png)", "(a.png)"])],
    ),
    "hugging face, values": (
        ask({"type": "image", "image": "a.png"}, {"type": "image", "path": "b.png"}, {"type": "image", "url": "c.png"}),
        (),
        [("user", ["(a.png)", "(b.png)", "(c.png)"])],
    ),
    "own media before parts": (ask(image_part("b.png"), "What?"), ("a.png",), [("user", ["(a.png)", "(b.png)", "What?"])]),
    "as text": ("[{'role': 'user', 'content': 'Why?'}]", (), [("user", ["Why?"])]),
    "as JSON": ('[{"from": "human", "value": "Why?"}]', (), [("user", ["Why?"])]),
}  # fmt: skip


@pytest.mark.parametrize(("value", "own", "messages"), FORMS.values(), ids=FORMS)
def test_conversation_becomes_messages(value: Any, own: tuple[str, ...], messages: list[tuple[str, list[str]]]) -> None:
    assert show(value, *own) == messages


@pytest.mark.parametrize(
    ("value", "target"),
    [
        (llava("What?"), None),
        (llava("What?", "red"), "red"),
        (
            [
                *ask("What?"),
                {"role": "assistant", "content": [{"type": "text", "text": "re"}, {"type": "output_text", "text": "d"}]},
            ],
            "red",
        ),
        ([*ask("What?"), {"role": "assistant", "content": None}], ""),
        (llava("1?", "one", "2?", "two <image>\n"), "two <image>\n"),
    ],
)
def test_last_assistant_turn_is_the_target(value: Any, target: str | None) -> None:
    conversation = read(value)
    assert conversation.target == target
    assert conversation.messages[-1].role == "user"


def test_question_is_the_last_user_text() -> None:
    assert read(llava("1?", "one", "Is <image> red?", "two"), "a.png").question == "Is\nred?"


FAULTS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "no list": (7, (), "expected a list of turns"),
    "other text": ("Why?", (), "expected a list of turns"),
    "no turns": ([], (), "expected a list of turns"),
    "turn is text": (["Why?"], (), "turn 1: found 'Why?' (text); expected an object with role and content"),
    "unknown role": ([{"role": "bot", "content": "x"}], (), "turn 1: found 'bot' (text); expected one of the roles"),
    "role is a list": ([{"role": ["user"], "content": "x"}], (), "turn 1: found ['user'] (a list); expected one of the roles"),
    "turn of a tool": ([{"role": "tool", "content": "x"}], (), "turn 1: found a turn of a tool ('tool'); expected"),
    "turn of a function": ([{"role": "function", "content": "x"}], (), "turn 1: found a turn of a tool ('function')"),
    "turn of a tool, ShareGPT": ([{"from": "observation", "value": "x"}], (), "turn 1: found a turn of a tool ('observation')"),
    "result of a tool": ([{"type": "function_call_output"}], (), "turn 1: found a turn of a tool ('function_call_output')"),
    "call of a tool": (
        [*ask("1?"), {"role": "assistant", "content": "Wait.", "tool_calls": [{"id": "1"}]}, *ask("2?")], (),
        "turn 2: found a call of a tool in a turn of the assistant; expected",
    ),
    "no role": ([{"content": "x"}], (), "turn 1: found None (null); expected one of the roles"),
    "number as content": ([{"role": "user", "content": 7}], (), "turn 1: found 7 (a number); expected text, or a list of parts"),
    "no content": ([{"role": "user", "content": None}], (), "turn 1: found None (null); expected text"),
    "audio part": (ask({"type": "input_audio"}), (), "(an object); expected a part of type text"),
    "system media": ([{"role": "system", "content": [image_part("a.png")]}], (), "expected media in the turns of the user only"),
    "blank media": (ask(image_part(" ")), (), "expected the image of the part"),
    "unknown media form": (ask({"type": "image", "image": 7}), (), "turn 1: found 7 (a number); expected a data: URL"),
    "empty turn": (ask(""), (), "turn 1 is empty"),
    "empty earlier turn": (llava("1?", " ", "2?"), (), "turn 2 is empty"),
    "only an answer": ([{"role": "assistant", "content": "x"}], (), "no turn is of the user"),
    "only a system message": ([{"role": "system", "content": "x"}], (), "no turn is of the user"),
    "two questions": (
        [*ask("1?"), *ask("2?")], (), "turns 1 and 2 are both of the user; expected the turns of user and assistant to alternate",
    ),
    "answer first": ([{"role": "assistant", "content": "x"}, *ask("1?")], (), "turn 1 is of the assistant; expected"),
    "late system message": ([*ask("1?"), {"role": "system", "content": "x"}], (), "turn 2 is a system message; expected"),
    "llava marker without media": (llava("<image>\nWhat?"), (), "<image> has no image, because the row has 0"),
    "too many markers": (llava("<image><image>"), ("a.png",), "<image> has no image, because the row has 1"),
    "number too high": (ask("<image 3>"), ("a.png",), "<image 3> has no image, because the row has 1"),
    "number too long": (ask("<image 12345678901>"), ("a.png",), "<image 12345678901> has no image, because the row has 1"),
    "number 0": (ask("<image 0>"), ("a.png",), "<image 0> has no image, because the row has 1"),
    "number 0 in llava": (llava("<image 0>"), ("a.png",), "<image 0> has no image, because the row has 1"),
    "index too high": (ask({"type": "image", "index": 1}), ("a.png",), "a part of type image has no image, because the row has 1"),
    "other name of the media": (
        ask({"type": "image", "source": {"type": "base64", "data": "x"}}),
        ("a.png",),
        "expected the image in image_url, video_url, image, url, path or bytes, not in source",
    ),
    "slot without media": (ask({"type": "image"}), (), "a part of type image has no image, because the row has 0"),
    "other kind of media": (llava("<video>"), ("a.png",), "<video> has no video, because the row has 0"),
    "marker in an answer": (llava("1?", "<image>", "2?"), ("a.png",), "turn 2: found <image> in a turn of the assistant"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "own", "message"), FAULTS.values(), ids=FAULTS)
def test_unusable_conversation_is_a_named_fault(value: Any, own: tuple[str, ...], message: str) -> None:
    with pytest.raises(SampleError) as caught:
        read(value, *own)
    assert caught.value.code == "bad_field"
    assert message in str(caught.value)


ASKED: dict[str, tuple[Any, tuple[str, ...], list[tuple[str, list[str]]]]] = {
    "written answers": (
        llava("1?", "one", "2?", "two"), (), [("user", ["1?"]), ("assistant", ["one"]), ("user", ["2?"])],
    ),
    "no answers": ([*ask("1?"), *ask("2?"), *ask("3?")], (), [("user", ["1?"]), ("user", ["2?"]), ("user", ["3?"])]),
    "only the last answer": (
        [*ask("1?"), *ask("2?"), {"role": "assistant", "content": "two"}], (), [("user", ["1?"]), ("user", ["2?"])],
    ),
    "empty answer": (
        [*ask("1?"), {"role": "assistant", "content": None}, *ask("2?")],
        (),
        [("user", ["1?"]), ("assistant", []), ("user", ["2?"])],
    ),
    "system message": (
        [{"role": "system", "content": "s"}, *ask("1?"), *ask("2?")], (), [("system", ["s"]), ("user", ["1?"]), ("user", ["2?"])],
    ),
    "own media without marker": (
        [{"role": "system", "content": "s"}, *ask("1?"), *ask("2?")],
        ("a.png",),
        [("system", ["s"]), ("user", ["(a.png)", "1?"]), ("user", ["2?"])],
    ),
    "media in a later turn": (
        [*ask("1?"), *ask(image_part("b.png"), "2?")], (), [("user", ["1?"]), ("user", ["(b.png)", "2?"])],
    ),
    "single turn": (ask("1?"), ("a.png",), [("user", ["(a.png)", "1?"])]),
}  # fmt: skip


@pytest.mark.parametrize(("value", "own", "messages"), ASKED.values(), ids=ASKED)
def test_asked_conversation_becomes_messages(value: Any, own: tuple[str, ...], messages: list[tuple[str, list[str]]]) -> None:
    assert show(value, *own, asks_turns=True) == messages


DIRTY: dict[str, tuple[Any, str]] = {
    "two questions beside an answered one": (
        [*llava("1?", "one"), *ask("2?"), *ask("3?")], "turns 3 and 4 are both of the user; expected the turns of user",
    ),
    "two answers": (
        [*llava("1?", "one"), {"role": "assistant", "content": "x"}, *ask("2?")], "turns 2 and 3 are both of the assistant",
    ),
    "system in the middle": ([*ask("1?"), {"role": "system", "content": "s"}, *ask("2?")], "turn 2 is a system message"),
    "answer first": ([{"role": "assistant", "content": "x"}, *ask("1?")], "turn 1 is of the assistant"),
    "empty question": ([*ask("1?"), *ask(" "), *ask("3?")], "turn 2 is empty; expected a text or media"),
    "only an answer": ([{"role": "assistant", "content": "x"}], "no turn is of the user"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "message"), DIRTY.values(), ids=DIRTY)
def test_dirty_asked_conversation_is_a_named_fault(value: Any, message: str) -> None:
    with pytest.raises(SampleError) as caught:
        read(value, asks_turns=True)
    assert message in str(caught.value)


def test_fault_of_unanswered_turns_names_the_option() -> None:
    with pytest.raises(SampleError, match=r"a row of its own; prompt: \{multi_turn: ask\} asks them one after the other$"):
        read([*ask("1?"), *ask("2?")])


@given(st.lists(st.integers(1, 4), max_size=8), st.text("ab \n", max_size=4))
def test_numbered_markers_place_their_media(numbers: list[int], between: str) -> None:
    """Each image and video of the row is sent at least once, at the place of its markers, and the text keeps no markers."""
    own = [f"{number}.png" for number in range(1, 5)]
    text = between.join(["Look", *(f"<image {number}>" for number in numbers), "now"])
    (message,) = read([{"role": "user", "content": text}], *own).messages
    unnamed = [number - 1 for number in range(1, 5) if number not in numbers]
    assert [part for part in message.content if isinstance(part, int)] == unnamed + [number - 1 for number in numbers]
    assert "".join(part for part in message.content if isinstance(part, str)) == between.join(["Look", *[""] * len(numbers), "now"])


KEYS = st.sampled_from(["role", "content", "from", "value", "type", "text", "image"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["user", "human", "<image>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
)


@given(VALUES, st.booleans())
def test_any_value_gives_messages_or_sample_error(value: Any, asks_turns: bool) -> None:
    with suppress(SampleError):
        assert read(value, asks_turns=asks_turns).messages


def test_media_of_parts_are_references() -> None:
    conversation = read(ask(image_part("data:image/png;base64,aGk="), "What?"))
    assert [reference.media.data for reference in conversation.media] == ["aGk="]
    assert isinstance(conversation.media[0].media, Media)
