"""Render a sample as the messages that a model gets, with the media at their places. Producer and worker use this module."""

import binascii
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from common.digests import digest_bytes, digest_record
from common.errors import SampleError
from common.prompts.built_in import DEFAULT, TEMPLATES
from common.prompts.markers import Placement
from common.prompts.templates import change_question, find_template, list_fields, render_template
from common.records import Media, Message, Sample
from common.sample_codes import SampleCode
from common.spec.prompts import Example, PromptSpec

Part = str | int
Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """The messages of one sample. A number in a message is an index of ``media``.

    ``media`` lists the images of the examples first, and then the media of the sample. ``turns`` is the number of requests. If it
    is more than 1, the last ``turns`` messages are all of the user, and are asked one after the other.
    """

    messages: tuple[Message, ...]
    media: tuple[Media, ...]
    turns: int = 1


def render_messages(sample: Sample, prompt: PromptSpec) -> Rendered:
    """Return the messages of a sample: the system message, the examples, and the sample's own conversation or the prompt's turns.

    If the prompt asks the turns one after the other, the written answers to them are left out. Media that no marker places come
    first in the first request.

    Raises ``SampleError`` (``bad_field``) if a marker names an image or video that the row does not have, or if a template cannot
    be rendered with the fields of the row (``TemplateFault``).
    """
    fields = list_fields(sample)
    shown = tuple(_list_example_media(prompt.examples))
    placement = Placement(sample.media, offset=len(shown))
    messages = list(_place_own(sample, placement, len(shown)) if sample.messages else _render_turns(fields, prompt, placement))
    suffix = _place_template(prompt.suffix, fields, "prompt.suffix", placement) if prompt.suffix else []
    turns = 1
    if prompt.asks_turns:
        messages = list(_drop_answers(messages))
        turns = sum(message.role == "user" for message in messages)
    last = _find_last_user(messages)
    _add_parts(messages, last - turns + 1, before=placement.list_unplaced())
    _add_parts(messages, last, after=["\n", *suffix] if suffix else [])
    examples = _render_examples(sample, prompt, fields)
    system = list(_render_system(sample, prompt, fields)) if prompt.system else []
    while messages[0].role == "system":
        system += [*(["\n\n"] if system else []), *messages.pop(0).content]
    first = [Message(role="system", content=merge_texts(system))] if system else []
    return Rendered((*first, *examples, *messages), (*shown, *sample.media), turns)


def _drop_answers(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield the messages without the messages of the assistant after the first user turn."""
    is_asked = False
    for message in messages:
        is_asked = is_asked or message.role == "user"
        if not (is_asked and message.role == "assistant"):
            yield message


def _add_parts(messages: list[Message], number: int, *, before: Sequence[Part] = (), after: Sequence[Part] = ()) -> None:
    content = merge_texts([*before, *messages[number].content, *after])
    messages[number] = Message(role="user", content=content)


def _render_system(sample: Sample, prompt: PromptSpec, fields: dict[str, Any]) -> Iterator[str | int]:
    """Yield the text of the prompt's system message. Raises ``SampleError`` for a marker: a system message cannot hold media."""
    text = render_template(prompt.system or "", fields, "prompt.system")
    if any(isinstance(part, int) for part in Placement(sample.media).place(text)):
        found = "prompt.system: found a media marker; expected media in template, turns or suffix"
        raise SampleError(SampleCode.BAD_FIELD, found)
    yield text


def render_earlier(sample: Sample) -> Rendered:
    """Return the messages of a sample in a plan of an earlier version: all media, then the default text with unchanged markers."""
    text = render_template(TEMPLATES[DEFAULT], list_fields(sample), "prompt.template")
    content = merge_texts([*range(len(sample.media)), text])
    return Rendered((Message(role="user", content=content),), sample.media)


def digest_request(rendered: Rendered) -> str:
    """Return the digest of a request. It covers only the roles, the texts and the content of the media, in order.

    If several turns are asked one after the other, it also covers their number. Their answers do not exist yet.
    """
    keys = [media_key(media) for media in rendered.media]
    parts = ([part if isinstance(part, str) else [keys[part]] for part in message.content] for message in rendered.messages)
    request: list[Any] = [[message.role, content] for message, content in zip(rendered.messages, parts, strict=True)]
    return digest_record([*request, ["ask", rendered.turns]] if rendered.turns > 1 else request)


def media_key(media: Media) -> str:
    """Return the key of an image's or video's content: its digest if it is known, else its place."""
    digest = media.digest
    if digest is None and media.data is not None:
        digest = _digest_base64(media.data)
    if digest is not None:
        return f"{media.kind}@{digest}"
    span = "" if media.offset is None else f"[{media.offset}:+{media.length}]"
    return f"{media.kind}:{media.uri}{span}"


def _digest_base64(text: str) -> str:
    try:
        return digest_bytes(b64decode(text, validate=True))
    except (binascii.Error, ValueError):  # the worker reports that the text is not base64
        return digest_bytes(text.encode())


def merge_texts(parts: Iterable[str | int]) -> Parts:
    """Join neighbouring texts and drop empty texts in the parts of a message. The result has at least one part."""
    merged: list[str | int] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged) or ("",)


def join_text(parts: Parts) -> str:
    """Return the text of a message, without its media."""
    return "".join(part for part in parts if isinstance(part, str))


class _Template(NamedTuple):
    """The template of one message, and the name of its field."""

    role: Literal["user", "assistant"]
    text: str
    where: str


def _list_turns(prompt: PromptSpec) -> list[_Template]:
    """Return the template of each turn. Raises ``ConfigError`` if ``template`` names a built-in template that does not exist."""
    if not prompt.turns:
        return [_Template("user", find_template(prompt.template, "prompt.template"), "prompt.template")]
    texts = ((turn.role, TEMPLATES.get(turn.text, turn.text)) for turn in prompt.turns)
    return [_Template(role, text, f"prompt.turns.{number}.text") for number, (role, text) in enumerate(texts)]


def _place_template(text: str, fields: dict[str, Any], where: str, placement: Placement) -> list[str | int]:
    """Return the text of a user's template in pieces, with the media in place of its markers and of the row's markers.

    A marker of the template without a number is dropped if the row has no media of its kind. Datasets mix rows with and without
    images, and a model must not get the marker as text.
    """
    return placement.place(render_template(text, fields, where, placement.missing_kinds))


def _render_turns(fields: dict[str, Any], prompt: PromptSpec, placement: Placement) -> Iterator[Message]:
    for role, text, where in _list_turns(prompt):
        if role == "user":
            yield Message(role=role, content=merge_texts(_place_template(text, fields, where, placement)))
            continue
        parts = placement.place(render_template(text, fields, where))
        if any(isinstance(part, int) for part in parts):
            raise SampleError(SampleCode.BAD_FIELD, f"{where}: found a media marker; expected media in turns of the user only")
        yield Message(role=role, content=merge_texts(parts))


def _place_own(sample: Sample, placement: Placement, offset: int) -> Iterator[Message]:
    """Yield the messages of the sample's own conversation. The numbers in them already place its media."""
    for message in sample.messages:
        parts: list[str | int] = []
        for part in message.content:
            if isinstance(part, int):
                if not 0 <= part < len(sample.media):
                    found = f"found the media index {part}, but the row has {len(sample.media)} media items"
                    raise SampleError(SampleCode.BAD_FIELD, f"messages: {found}; correct the row")
                placement.note(part)
                part += offset
            parts.append(part)
        yield Message(role=message.role, content=merge_texts(parts))


def _find_last_user(messages: list[Message]) -> int:
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].role == "user":
            return number
    raise SampleError(SampleCode.BAD_FIELD, "messages: none has the role user; expected at least one such message")


def _list_example_media(examples: Iterable[Example]) -> Iterator[Media]:
    for example in examples:
        for number, path in enumerate(example.images):
            digest = example.digests[number] if example.digests else None
            yield Media(uri=path, digest=digest)


def _render_examples(sample: Sample, prompt: PromptSpec, fields: dict[str, Any]) -> Iterator[Message]:
    """Yield the question and the answer of each example. The question is rendered with the template of the row's question."""
    offset = 0
    last = _list_turns(prompt)[-1]
    for number, example in enumerate(prompt.examples):
        kind = example.kind or ("multiple_choice" if example.options else sample.kind)
        where = f"prompt.examples.{number}"
        shown = change_question(fields, example.question, example.hint, example.options, kind)
        placement = Placement(tuple(_list_example_media([example])), offset=offset)
        placed = _place_template(last.text, shown, where, placement)
        yield Message(role="user", content=merge_texts([*placement.list_unplaced(), *placed]))
        yield Message(role="assistant", content=(example.answer,))
        offset += len(example.images)
