"""Messages: media in place of their markers, examples, system texts, turns, and the digest of a request."""

import base64
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.digests import digest_bytes
from common.errors import SampleError
from common.prompts.messages import Rendered, digest_request, media_key, render_earlier, render_messages
from common.records import Kind, Media, Message, Sample
from common.spec.prompts import PromptSpec

RED, BLUE, GREEN = (Media(uri=f"/data/{name}.png", digest=name) for name in ("red", "blue", "green"))
FILM = Media(kind="video", uri="/data/film.mp4", digest="film")


def make_sample(question: str = "Why?", *media: Media, kind: Kind = "free_text", **fields: Any) -> Sample:
    return Sample(sample_id="s", dataset="d", index="1", kind=kind, question=question, media=media, **fields)


def render(sample: Sample, **prompt: Any) -> Rendered:
    return render_messages(sample, PromptSpec.model_validate(prompt))


def content(sample: Sample, **prompt: Any) -> tuple[str | int, ...]:
    (message,) = render(sample, **prompt).messages
    assert message.role == "user"
    return message.content


@pytest.mark.parametrize(
    ("question", "media", "expected"),
    [
        ("Why?", (), ("Why?",)),
        ("Why?", (RED,), (0, "Why?")),
        ("Why?", (RED, BLUE), (0, 1, "Why?")),
        ("A <image> here.", (RED,), ("A ", 0, " here.")),
        ("<image>\nWhy?", (RED,), (0, "\nWhy?")),
        ("Why?\n<image>", (RED,), ("Why?\n", 0)),
        ("<image><image>", (RED, BLUE), (0, 1)),
        ("<image 2>, then <image 1>", (RED, BLUE), (1, ", then ", 0)),
        ("<image2>, then <image1>", (RED, BLUE), (1, ", then ", 0)),
        ("<image 1> and again <image 1>", (RED,), (0, " and again ", 0)),
        ("Only <image 2> is named.", (RED, BLUE, GREEN), (0, 2, "Only ", 1, " is named.")),
        ("<image 1>, <image>", (RED, BLUE), (0, ", ", 1)),
        ("<image>, <image 1>", (RED, BLUE), (1, 0, ", ", 0)),
        ("See <video> and <image>.", (RED, FILM), ("See ", 1, " and ", 0, ".")),
        ("See <video 1>.", (RED, FILM), (0, "See ", 1, ".")),
        ("The tag <image> in HTML", (), ("The tag <image> in HTML",)),
        ("The tag <video> in HTML", (RED,), (0, "The tag <video> in HTML")),
        ("<img>, <Image>, <image a>, <image  1>", (RED,), (0, "<img>, <Image>, <image a>, <image  1>")),
    ],
)
def test_media_stand_where_markers_name_them(question: str, media: tuple[Media, ...], expected: tuple[str | int, ...]) -> None:
    rendered = content(make_sample(question, *media))
    assert rendered == expected


@pytest.mark.parametrize(
    ("question", "media", "message"),
    [
        ("<image 1> and <image 2>", (RED,), "<image 2> names a missing image, but the row has 1 image; correct"),
        ("<image> and <image>", (RED,), "<image> names a missing image, but the row has 1 image;"),
        ("<image 1>", (), "<image 1> names a missing image, but the row has 0 images;"),
        ("<image 0>", (RED,), "<image 0> names a missing image"),
        ("<image 99999999999999999999>", (RED,), "names a missing image"),
        ("<video 1>", (RED,), "<video 1> names a missing video, but the row has 0 videos"),
        ("<image 3>", (RED, BLUE), "the row has 2 images"),
    ],
)
def test_marker_without_media_is_a_fault(question: str, media: tuple[Media, ...], message: str) -> None:
    with pytest.raises(SampleError) as caught:
        render(make_sample(question, *media))
    assert caught.value.code == "bad_field"
    assert message in str(caught.value)


def test_options_and_hint_place_images() -> None:
    options = {"A": "<image 2>", "B": "<image 3>"}
    sample = make_sample("Which?", RED, BLUE, GREEN, kind="multiple_choice", options=options, hint="Like <image 1>.")
    expected = ("Hint: Like ", 0, ".\nQuestion: Which?\nOptions:\nA. ", 1, "\nB. ", 2)
    assert content(sample) == (*expected, "\nPlease select the correct answer from the options above. \n")


def test_template_places_images() -> None:
    assert content(make_sample("Why?", RED, BLUE), template="{{ question }} <image 2> {{ kind }}") == (0, "Why? ", 1, " free_text")


MARKERS_OF_TEMPLATES = [
    ("Look: <image>\n{{ question }}", ("Look: ", 0, "\nWhy?"), "Look: \nWhy?"),
    ("<image>\n{{ question }}", (0, "\nWhy?"), "Why?"),
    ("<image>\n<image>\n{{ question }}", None, "Why?"),
    ("One\n<image>\n{{ question }}", ("One\n", 0, "\nWhy?"), "One\nWhy?"),
    ("{{ question }}<image>\nEnd", ("Why?", 0, "\nEnd"), "Why?\nEnd"),
    ("{{ question }}\n<image>", ("Why?\n", 0), "Why?\n"),
    ("{% if kind %}<image>{% endif %}{{ question }}", (0, "Why?"), "Why?"),
    ("{{ '<image>' if kind else 'x<image>' }}{{ question }}", (0, "Why?"), "Why?"),
    ("{{ '<image>' ~ question }}", (0, "Why?"), "Why?"),
    ("{{ question }}{{ '<image>' }}", ("Why?", 0), "Why?"),
    ("{% raw %}<image>{% endraw %}{{ question }}", (0, "Why?"), "Why?"),
    ("{{ question | replace('<image>', '') }}", (0, "Why?"), "Why?"),
    ("{{ 'a' if '<image>' in question else 'b' }}", (0, "b"), "b"),
]


@pytest.mark.parametrize(("template", "with_image", "without"), MARKERS_OF_TEMPLATES)
def test_marker_of_a_template_needs_no_media(template: str, with_image: tuple[str | int, ...] | None, without: str) -> None:
    if with_image:
        assert content(make_sample("Why?", RED), template=template) == with_image
    assert content(make_sample("Why?"), template=template) == (without,)
    assert content(make_sample("Why?"), turns=[{"role": "user", "text": template}]) == (without,)
    assert content(make_sample("Go."), suffix=template) == (f"Go.\n{without.replace('Why?', 'Go.')}",)


@pytest.mark.parametrize("template", [template for template, *_ in MARKERS_OF_TEMPLATES if "replace" not in template])
def test_marker_of_a_row_without_media_stays_text(template: str) -> None:
    if "'<image>' in question" not in template:
        assert "The tag <image> in HTML" in "".join(map(str, content(make_sample("The tag <image> in HTML"), template=template)))


def test_numbered_marker_of_a_template_needs_its_image() -> None:
    with pytest.raises(SampleError, match="<image 1> names a missing image, but the row has 0 images"):
        render(make_sample("Why?"), template="<image 1>{{ question }}")
    with pytest.raises(SampleError, match="<image> names a missing image, but the row has 1 image"):
        render(make_sample("Why?", RED), template="<image><image>{{ question }}")


def test_video_and_image_markers_are_dropped_apart() -> None:
    template = "<image>\n<video>\n{{ question }}"
    assert content(make_sample("Why?", RED), template=template) == (0, "\nWhy?")
    assert content(make_sample("Why?", FILM), template=template) == (0, "\nWhy?")
    assert content(make_sample("Why?", RED, FILM), template=template) == (0, "\n", 1, "\nWhy?")


def test_example_without_image_drops_the_marker() -> None:
    examples = [{"question": "One <image>?", "answer": "a"}, {"question": "Two?", "answer": "b", "images": ["/b.png"]}]
    rendered = render(make_sample("Why?", RED), template="<image>\n{{ question }}", examples=examples)
    shown = [message.content for message in rendered.messages if message.role == "user"]
    assert shown == [("One <image>?",), (0, "\nTwo?"), (1, "\nWhy?")]


def test_examples_precede_the_row() -> None:
    examples = [
        {"question": "One?", "answer": "1", "images": ["/shots/a.png", "/shots/b.png"]},
        {"question": "Two <image>?", "answer": "2", "images": ["/shots/c.png"], "digests": ["c"]},
        {"question": "Three?", "answer": "A", "options": {"A": "3"}},
    ]
    rendered = render(make_sample("Why <image 1>?", RED, kind="short_text"), examples=examples, system="Brief.")
    word = "\nAnswer the question using a single word or phrase."
    assert [(message.role, message.content) for message in rendered.messages] == [
        ("system", ("Brief.",)),
        ("user", (0, 1, f"One?{word}")),
        ("assistant", ("1",)),
        ("user", ("Two ", 2, f"?{word}")),
        ("assistant", ("2",)),
        ("user", ("Question: Three?\nOptions:\nA. 3\nPlease select the correct answer from the options above. \n",)),
        ("assistant", ("A",)),
        ("user", ("Why ", 3, f"?{word}")),
    ]
    assert [media_key(media) for media in rendered.media] == ["image:/shots/a.png", "image:/shots/b.png", "image@c", "image@red"]


def test_suffix_ends_the_last_user_message() -> None:
    assert content(make_sample("Why?", RED), suffix="In {{ dataset }}.") == (0, "Why?\nIn d.")
    assert content(make_sample("Why? <image>", RED), suffix="Brief.") == ("Why? ", 0, "\nBrief.")


def test_turns_replace_the_template() -> None:
    turns = [
        {"role": "user", "text": "Look at <image 2>."},
        {"role": "assistant", "text": "I see {{ dataset }}."},
        {"role": "user", "text": "question_only"},
    ]
    rendered = render(make_sample("Why?", RED, BLUE), turns=turns)
    assert [message.content for message in rendered.messages] == [("Look at ", 1, "."), ("I see d.",), (0, "Why?")]


CONVERSATION = (
    Message(role="system", content=("Own.",)),
    Message(role="user", content=("First ", 1, "?")),
    Message(role="assistant", content=("Yes.",)),
    Message(role="user", content=("And this <image>?",)),
)


def test_own_conversation_is_sent_as_written() -> None:
    sample = make_sample("unused", RED, BLUE, messages=CONVERSATION)
    rendered = render(sample, template="lmms_eval")
    assert rendered.messages == (*CONVERSATION[:3], Message(role="user", content=(0, "And this <image>?")))


def test_prompt_frames_an_own_conversation() -> None:
    sample = make_sample("unused", RED, BLUE, messages=CONVERSATION)
    rendered = render(sample, system="Ours.", suffix="Brief.", examples=[{"question": "q", "answer": "a", "images": ["/x.png"]}])
    assert [(message.role, message.content) for message in rendered.messages] == [
        ("system", ("Ours.\n\nOwn.",)),
        ("user", (0, "q")),
        ("assistant", ("a",)),
        ("user", ("First ", 2, "?")),
        ("assistant", ("Yes.",)),
        ("user", (1, "And this <image>?\nBrief.")),
    ]


def show(rendered: Rendered) -> list[tuple[str, tuple[str | int, ...]]]:
    return [(message.role, message.content) for message in rendered.messages]


def test_asked_conversation_leaves_written_answers_out() -> None:
    sample = make_sample("unused", RED, BLUE, messages=CONVERSATION)
    example = {"question": "q", "answer": "a", "images": ["/x.png"]}
    rendered = render(sample, multi_turn="ask", suffix="Brief.", examples=[example])
    assert show(rendered) == [
        ("system", ("Own.",)),
        ("user", (0, "q")),
        ("assistant", ("a",)),
        ("user", (1, "First ", 2, "?")),
        ("user", ("And this <image>?\nBrief.",)),
    ]
    assert rendered.turns == 2


def test_asked_turns_of_the_prompt_begin_with_media() -> None:
    turns = [
        {"role": "assistant", "text": "Hello."},
        {"role": "user", "text": "Look."},
        {"role": "assistant", "text": "Yes."},
        {"role": "user", "text": "{{ question }}"},
    ]
    rendered = render(make_sample("Why?", RED), turns=turns, multi_turn="ask")
    assert show(rendered) == [("assistant", ("Hello.",)), ("user", (0, "Look.")), ("user", ("Why?",))]
    assert rendered.turns == 2


SINGLE: list[dict[str, Any]] = [
    {},
    {"suffix": "Brief.", "system": "You."},
    {"examples": [{"question": "q", "answer": "a"}]},
    {"turns": [{"role": "assistant", "text": "Hello."}, {"role": "user", "text": "{{ question }}"}]},
]


@pytest.mark.parametrize("prompt", SINGLE)
def test_single_turn_is_rendered_as_without_asking(prompt: dict[str, Any]) -> None:
    for sample in (make_sample("Why <image>?", RED, BLUE), make_sample("", RED, messages=CONVERSATION[:1] + CONVERSATION[3:])):
        given, asked = (render(sample, multi_turn=multi_turn, **prompt) for multi_turn in ("given", "ask"))
        assert given == asked
        assert digest_request(given) == digest_request(asked)


def test_asked_request_has_another_digest_than_a_given_one() -> None:
    """Without the number of turns, a prompt with two user turns would have the same digest in both modes."""
    turns = [{"role": "user", "text": "Look."}, {"role": "user", "text": "{{ question }}"}]
    given, asked = (render(make_sample("Why?"), turns=turns, multi_turn=multi_turn) for multi_turn in ("given", "ask"))
    assert given.messages == asked.messages
    assert digest_request(given) != digest_request(asked)


ROLES = st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=7)


@given(ROLES, st.integers(0, 2), st.booleans())
def test_asked_messages_are_the_last_ones(roles: list[str], images: int, has_system: bool) -> None:
    system = [Message(role="system", content=("s",))] if has_system else []
    spoken = [Message.model_validate({"role": role, "content": (f"{number}",)}) for number, role in enumerate(roles)]
    sample = make_sample("", *(RED, BLUE)[:images], messages=(*system, *spoken))
    if "user" not in roles:
        with pytest.raises(SampleError):
            render(sample, multi_turn="ask")
        return
    rendered = render(sample, multi_turn="ask")
    asked = rendered.messages[-rendered.turns :]
    assert [message.role for message in asked] == ["user"] * roles.count("user")
    assert [message.role for message in rendered.messages[: -rendered.turns]] == [
        *["system"] * has_system,
        *roles[: roles.index("user")],
    ]
    assert asked[0].content[:images] == tuple(range(images))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((Message(role="user", content=(2,)),), "found the media index 2, but the row has 2 media items"),
        ((Message(role="user", content=(-1,)),), "index -1"),
        ((Message(role="system", content=("x",)),), "none has the role user"),
    ],
)
def test_invalid_conversation_is_a_fault(messages: tuple[Message, ...], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        render(make_sample("x", RED, BLUE, messages=messages))


def test_earlier_plan_is_asked_with_images_first() -> None:
    sample = make_sample("Why <image 2>?", RED, BLUE, kind="number")
    asked = render_earlier(sample)
    assert asked.messages == (
        Message(role="user", content=(0, 1, "Why <image 2>?\nAnswer the question using a single word or phrase.")),
    )
    assert asked.media == sample.media


# Digests


def test_same_image_has_the_same_key_in_any_form() -> None:
    content = b"the bytes of an image"
    inline = Media(data=base64.b64encode(content).decode())
    digest = digest_bytes(content)
    file = Media(uri="/a.png", digest=digest)
    part = Media(uri="/a.tsv", offset=3, length=9, encoding="base64", digest=digest)
    assert {media_key(media) for media in (inline, file, part)} == {f"image@{digest}"}
    assert media_key(Media(kind="video", uri="https://host/v.mp4")) == "video:https://host/v.mp4"
    assert media_key(Media(uri="/a.tar", offset=3, length=9)) == "image:/a.tar[3:+9]"
    assert media_key(Media(data="not base64!")).startswith("image@")


def test_digest_covers_roles_texts_media_and_order_only() -> None:
    base = make_sample("Why <image 1> <image 2>?", RED, BLUE)
    same = base.model_copy(update={"sample_id": "t", "dataset": "e", "index": "2", "target": ("x",), "metadata": {"a": 1}})
    moved = base.model_copy(update={"media": (RED.model_copy(update={"uri": "/b.png"}), BLUE)})
    others = [
        make_sample("Why <image 2> <image 1>?", RED, BLUE),
        make_sample("Why <image 1> <image 2>.", RED, BLUE),
        make_sample("Why <image 1> <image 2>?", RED, GREEN),
        make_sample("Why image@red image@blue?"),
        make_sample("Why <image 1> <image 2>?", RED, BLUE, kind="short_text"),
    ]
    digests = [digest_request(render(sample)) for sample in (base, same, moved, *others)]
    assert len(set(digests[:3])) == 1
    assert len(set(digests[2:])) == len(others) + 1
    assert digest_request(render(base, system="x")) not in digests


def test_digest_ignores_unshown_media_order() -> None:
    one, other = make_sample("<image 2><image 1>", RED, BLUE), make_sample("<image 1><image 2>", BLUE, RED)
    assert digest_request(render(one)) == digest_request(render(other))


PARTS = st.lists(st.sampled_from(["<image>", "<image 1>", "<image2>", "<video>", "text ", "\n", "<", "image>", "日本"]), max_size=8)


@given(parts=PARTS, images=st.integers(0, 3), videos=st.integers(0, 1), examples=st.integers(0, 2), suffix=PARTS)
def test_every_media_is_shown_and_no_text_is_lost(
    parts: list[str], images: int, videos: int, examples: int, suffix: list[str]
) -> None:
    media = (*(RED, BLUE, GREEN)[:images], *(FILM,) * videos)
    shots = [{"question": f"q{number}", "answer": "a", "images": [f"/{number}.png"]} for number in range(examples)]
    prompt = {"template": "question_only", "examples": shots, "suffix": "".join(suffix) or None}
    sample = make_sample("".join(parts), *media)
    try:
        rendered = render(sample, **prompt)
    except SampleError:
        return  # the row does not have the image or video of a marker
    assert rendered == render(sample, **prompt)
    shown = [part for message in rendered.messages for part in message.content if isinstance(part, int)]
    assert set(shown) == set(range(len(rendered.media)))
    assert len(rendered.media) == examples + len(media)
    for message in rendered.messages:
        kinds = [isinstance(part, str) for part in message.content]
        assert not any(first and second for first, second in pairwise(kinds)), "neighbouring texts are joined"
        assert message.content


def test_marker_in_the_system_message_is_a_fault() -> None:
    for system in ("Look at <image>.", "Look at <image 1>."):
        with pytest.raises(SampleError, match=r"prompt\.system: found a media marker; expected media in template") as caught:
            render(make_sample("Why?", RED), system=system)
        assert caught.value.code == "bad_field"
    assert render(make_sample("Why?"), system="The tag <image>").messages[0].content == ("The tag <image>",)


def test_marker_in_a_turn_of_the_assistant_is_a_fault() -> None:
    turns = [{"role": "user", "text": "Look."}, {"role": "assistant", "text": "<image>"}, {"role": "user", "text": "Why?"}]
    with pytest.raises(SampleError, match=r"^prompt\.turns\.1\.text: found a media marker; expected media in turns of the user"):
        render(make_sample("Why?", RED), turns=turns)
    assert render(make_sample("Why?"), turns=turns).messages[1].content == ("<image>",)
