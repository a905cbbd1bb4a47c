"""Read the conversation of a row as messages with the media at their places.

A conversation has one of two forms: turns with ``from`` and ``value`` (LLaVA, ShareGPT), or messages with ``role`` and ``content``
(OpenAI). In the second form, ``content`` is a text or a list of parts. A line of an OpenAI batch file has messages in its ``body``.
The role ``developer`` is OpenAI's newer name of ``system``. Turns and calls of tools are not supported.

If the last message is from the assistant, it is the target and is not sent. Earlier assistant messages are sent as written, unless
the turns are asked one after the other. In that case, a conversation may also leave them out or empty.
A marker (``<image>``, ``<image 1>``, ``<video>``) stands for media of the row's own fields, and so does a part that does not
contain media. Media of the row that no marker and no part names come first in the last user message, or in the first one if the
turns are asked one after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from common.errors import SampleError
from common.prompts.markers import find_markers
from common.records import Message
from producer.datasets.fields import misfit, to_text
from producer.datasets.media import MediaKind, Reference
from producer.datasets.values.literals import read_literal
from producer.datasets.values.turn_lists import TurnList

Role = Literal["system", "user", "assistant"]
ReadMedia = Callable[[Any, MediaKind], list[Reference]]

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
}  # fmt: skip
# The turns of tools: roles of OpenAI and of ShareGPT datasets, and types of the items in OpenAI's ``input``.
_TOOL_ROLES = (
    *("tool", "function", "ipython", "observation", "tool_call", "tool_response"),
    *("function_call", "function_response", "function_call_output"),
)
_TOOL_CALLS = ("tool_calls", "function_call")  # fields of an OpenAI message
_TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA_PARTS: dict[str, MediaKind] = {
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "video_url": "video",
    "input_video": "video",
    "video": "video",
}


class Conversation(NamedTuple):
    """The messages of a row. A number in a message is an index of ``media``.

    ``question`` is the text of the last user message. ``target`` is the text of a last assistant message, or None.
    """

    messages: tuple[Message, ...]
    media: tuple[Reference, ...]
    question: str
    target: str | None


class _Slot(NamedTuple):
    """A place for an image or video of the row's own fields.

    - ``number`` is its number among the media of this kind, from 1. None means the first one that is not used yet.
    - ``written`` is the text of the marker.
    - ``is_required`` is false if the marker counts as text in a row without media of this kind.
    """

    kind: MediaKind
    number: int | None
    written: str
    is_required: bool


class _Turn(NamedTuple):
    role: Role
    parts: list[str | Reference | _Slot]


def read_conversation(value: Any, own: Sequence[Reference], read_media: ReadMedia, *, asks_turns: bool = False) -> Conversation:
    """Return the conversation of a row. ``own`` lists the media of the row's own fields. Raises ``SampleError``.

    ``read_media`` returns the media in the value of a part. ``asks_turns`` states whether the turns are asked one after the other.
    """
    turns = [_read_turn(turn, number, read_media) for number, turn in enumerate(_find_turns(value), start=1)]
    target = None
    if turns and turns[-1].role == "assistant":
        target = "".join(part.written if isinstance(part, _Slot) else str(part) for part in turns.pop().parts)
    _check_order([turn.role for turn in turns], asks_turns=asks_turns)
    placed, media = _place_media(turns, own, asks_turns=asks_turns)
    messages = tuple(Message(role=turn.role, content=tuple(content)) for turn, content in zip(turns, placed, strict=True))
    question = "\n".join(part.strip() for part in placed[-1] if isinstance(part, str) and not part.isspace())
    return Conversation(messages, tuple(media), question, target)


def holds_messages(value: Any) -> bool:
    """Return whether a value is the body of a request to OpenAI's API."""
    return isinstance(value, dict) and ("messages" in value or "input" in value)


def _find_turns(value: Any) -> list[Any]:
    if isinstance(value, TurnList):
        return value.list_messages()
    if isinstance(value, str):
        value = read_literal(value) or value
    if isinstance(value, dict) and holds_messages(value):
        listed = value.get("messages") or value.get("input")
        instructions = value.get("instructions")
        value = [{"role": "system", "content": instructions}, *listed] if instructions and isinstance(listed, list) else listed
    if not isinstance(value, list) or not value:
        raise misfit(value, "a list of turns, each with role and content, or with from and value")
    return value


def _read_turn(turn: Any, number: int, read_media: ReadMedia) -> _Turn:
    try:
        if not isinstance(turn, dict):
            raise misfit(turn, "an object with role and content, or with from and value")
        is_llava = "from" in turn and "role" not in turn
        written, content = (turn.get("from"), turn.get("value")) if is_llava else (turn.get("role"), turn.get("content"))
        role = _ROLES.get(written) if isinstance(written, str) else None
        if named := [name for name in (written, turn.get("type")) if name in _TOOL_ROLES]:
            raise _refuse_tools(f"a turn of a tool ({named[0]!r})")
        if any(turn.get(name) for name in _TOOL_CALLS):
            raise _refuse_tools(f"a call of a tool in a turn of the {written}")
        if role is None:
            raise misfit(written, f"one of the roles {', '.join(_ROLES)}")
        parts = list(_read_content(content, role, read_media, is_llava=is_llava))
    except SampleError as error:
        raise SampleError(error.code, f"turn {number}: {error}") from None
    return _Turn(role, parts)


def _refuse_tools(found: str) -> SampleError:
    return SampleError(
        "bad_field",
        f"found {found}; expected one of the roles {', '.join(_ROLES)}, and no calls of tools; remove the calls and their "
        "results, or write them as text in the turns of user and assistant",
    )


def _read_content(content: Any, role: Role, read_media: ReadMedia, *, is_llava: bool) -> Iterator[str | Reference | _Slot]:
    if isinstance(content, str):
        yield from _split_text(content, is_llava=is_llava)
        return
    if not isinstance(content, list):
        if content is None and role == "assistant":
            return
        raise misfit(content, "text, or a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            yield from _split_text(part, is_llava=False)
        elif kind in _TEXT_PARTS:
            yield from _split_text(to_text(part.get("text")), is_llava=False)
        elif kind in _MEDIA_PARTS and role == "user":
            yield from _read_media_part(part, _MEDIA_PARTS[kind], read_media)
        elif kind in _MEDIA_PARTS:
            raise misfit(part, f"media in the turns of the user only, not of the {role}")
        else:
            raise misfit(part, f"a part of type {', '.join([*_TEXT_PARTS, *_MEDIA_PARTS])}")


def _read_media_part(part: dict[str, Any], kind: MediaKind, read_media: ReadMedia) -> Iterator[Reference | _Slot]:
    """Yield the media of a part, such as ``{"type": "image_url", "image_url": {"url": …}}`` or ``{"type": "image", "path": …}``.

    A part without a value, as in Hugging Face chat datasets, is a slot for the row's own media. Its ``index`` is the position of
    the image or video, counted from 0.
    """
    names = (part["type"], "image_url", "video_url", kind)
    value = next((part[name] for name in names if part.get(name) is not None), None)
    if value is None and any(part.get(name) for name in ("url", "path", "bytes")):
        value = part
    if value is None:
        if strange := [name for name, one in part.items() if one and name not in ("type", "index", "text")]:
            raise misfit(part, f"the {kind} in image_url, video_url, {kind}, url, path or bytes, not in {strange[0]}")
        index = part.get("index")
        number = index + 1 if isinstance(index, int) and not isinstance(index, bool) else None
        yield _Slot(kind, number, "", is_required=True)
    elif found := read_media(value, kind):
        yield from found
    else:
        raise misfit(value, f"the {kind} of the part: a data: URL, a URL or a path")


def _split_text(text: str, *, is_llava: bool) -> Iterator[str | _Slot]:
    end = 0
    for marker in find_markers(text, with_line_breaks=is_llava):  # LLaVA puts a marker on a line of its own
        yield text[end : marker.start]
        yield _Slot(marker.kind, marker.number, marker.written, is_required=is_llava)
        end = marker.end
    yield text[end:]


def _check_order(roles: list[Role], *, asks_turns: bool) -> None:
    """Raise ``SampleError`` for a wrong order of roles.

    At most one system message comes first. Then user and assistant alternate. The first and the last of these turns are the user's.
    With ``asks_turns``, all turns may be the user's.
    """
    offset = 1 if roles[:1] == ["system"] else 0
    spoken = roles[offset:]
    if "system" in spoken:
        raise SampleError(
            "bad_field", f"turn {spoken.index('system') + offset + 1} is a system message; expected it as turn 1 only"
        )
    is_unanswered = "assistant" not in spoken
    for number, (first, second) in enumerate(pairwise(spoken), start=1 + offset):
        if first == second and not (asks_turns and is_unanswered):
            advice = "; prompt: {multi_turn: ask} asks them one after the other" if is_unanswered else ""
            raise SampleError(
                "bad_field",
                f"turns {number} and {number + 1} are both of the {first}; expected the turns of user and assistant to alternate; "
                f"add the missing turn, join the two, or give each question a row of its own{advice}",
            )
    if not spoken or spoken[0] != "user":
        found = f"turn {1 + offset} is of the assistant" if spoken else "no turn is of the user"
        raise SampleError("bad_field", f"{found}; expected the first turn, after a system message, to be of the user")


class _OwnMedia:
    """The media of the row's own fields. A slot takes the one with its number, or the first unused one of its kind."""

    def __init__(self, own: Sequence[Reference]) -> None:
        kinds = [reference.media.kind for reference in own]
        self._positions = {kind: [at for at, one in enumerate(kinds) if one == kind] for kind in _MEDIA_PARTS.values()}
        self._own = own
        self.unused = dict.fromkeys(range(len(own)))

    def take(self, slot: _Slot) -> int | None:
        """Return the index of the image or video for a slot, or None if the slot is text.

        Raises ``SampleError`` if the row does not have this image or video.
        """
        positions = self._positions[slot.kind]
        if not positions and not slot.is_required:
            return None
        if slot.number is None:
            fitting = [at for at in positions if at in self.unused]
        elif slot.written and any(self._own[at].media.number is not None for at in positions):
            fitting = [at for at in positions if self._own[at].media.number == slot.number]
        else:
            fitting = positions[slot.number - 1 : slot.number] if slot.number > 0 else []
        if not fitting:
            marker = slot.written.strip() or f"a part of type {slot.kind}"
            raise SampleError(
                "bad_field",
                f"{marker} has no {slot.kind}, because the row has {len(positions)}; expected one for each marker and part",
            )
        self.unused.pop(fitting[0], None)
        return fitting[0]


def _place_media(
    turns: Sequence[_Turn], own: Sequence[Reference], *, asks_turns: bool
) -> tuple[list[list[str | int]], list[Reference]]:
    """Return the content of each turn, with indices in place of media, and the list of all media."""
    media, owned = list(own), _OwnMedia(own)
    placed: list[list[str | int]] = []
    for number, turn in enumerate(turns, start=1):
        content: list[str | int] = []
        for part in turn.parts:
            if isinstance(part, Reference):
                content.append(len(media))
                media.append(part)
            elif isinstance(part, str):
                _add_text(content, part)
            elif (at := owned.take(part)) is None:
                _add_text(content, part.written)
            elif turn.role == "user":
                content.append(at)
            else:
                found = f"turn {number}: found {part.written.strip()} in a turn of the {turn.role}"
                raise SampleError("bad_field", f"{found}; expected media in the turns of the user only")
        placed.append(content)
    first = next(at for at, turn in enumerate(turns) if turn.role == "user")
    placed[first if asks_turns else -1][:0] = owned.unused
    for number, (turn, content) in enumerate(zip(turns, placed, strict=True), start=1):
        is_sent = turn.role != "assistant" or not asks_turns
        if is_sent and not any(isinstance(part, int) or part.strip() for part in content):
            raise SampleError("bad_field", f"turn {number} is empty; expected a text or media")
    return placed, media


def _add_text(content: list[str | int], text: str) -> None:
    if content and isinstance(content[-1], str):
        content[-1] += text
    elif text:
        content.append(text)
