"""Recognise columns that no field uses, but that probably contain media, options, the target or the question.

The names here are suggestions for the user. They are not aliases, because the same name means different things in different
datasets: ``text`` is a question in one dataset and an answer in another.
"""

import base64
import binascii
import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from string import ascii_uppercase
from typing import Any

from common.errors import SampleError
from common.spec.dataset_files import IMAGE_ENDINGS, VIDEO_ENDINGS
from common.storage.addresses import is_remote
from producer.datasets.media import MediaKind, find_content, find_path, find_size, refer
from producer.datasets.rows import ALIASES
from producer.datasets.values.base64_text import standardize
from producer.datasets.values.literals import read_literal

SUGGESTED: dict[str, tuple[str, ...]] = {
    "question": ("query", "text", "prompt", "instruction", "problem", "input", "user_prompt", "q", "questions"),
    "options": ("option", "choice", "candidates", "multiple_choices", "answer_choices", "answer_options"),
    "target": (
        *(
            "label",
            "labels",
            "gold",
            "gold_answer",
            "ground_truth",
            "gt",
            "gt_answer",
            "correct_answer",
            "correct_choice",
            "correct",
        ),
        *("solution", "output", "response", "reference", "references", "caption", "captions"),
    ),
    "image": (
        *("img", "imgs", "picture", "pictures", "photo", "photos", "pic", "img_path", "image_paths", "image_url", "image_urls"),
        *("image_file", "image_name", "image_list", "file_name", "filename", "decoded_image", "frames"),
    ),
    "video": ("clip", "clip_id", "video_file", "video_name", "video_id", "video_url", "video_paths"),
}
_TURN_NAMES = ({"role", "content"}, {"from", "value"})
_CLOSE = 0.8  # similarity of two names, from 0 to 1; `answer_1` and `answer` have 0.86
_HEAD = 256  # the number of characters of a long text that are examined
_LOOKED_AT = 20  # the number of filled values of a column that are examined

_SUFFIXES: dict[str, MediaKind] = {**dict.fromkeys(IMAGE_ENDINGS, "image"), **dict.fromkeys(VIDEO_ENDINGS, "video")}
_MAGICS: dict[bytes, MediaKind] = {
    b"\x89PNG": "image", b"\xff\xd8\xff": "image", b"GIF8": "image", b"RIFF": "image", b"BM": "image", b"II*\0": "image",
    b"MM\0*": "image", b"\x1aE\xdf\xa3": "video",
}  # fmt: skip


class Look(StrEnum):
    """The content of a value.

    ``IMAGE_NAME`` and ``VIDEO_NAME`` are paths and URLs with the ending of an image or video, but without a file on this machine.
    """

    IMAGE = "image"
    VIDEO = "video"
    IMAGE_NAME = "image name"
    VIDEO_NAME = "video name"
    OPTIONS = "options"
    MESSAGES = "messages"


_KINDS: dict[Look, MediaKind] = {
    Look.IMAGE: "image", Look.IMAGE_NAME: "image", Look.VIDEO: "video", Look.VIDEO_NAME: "video",
}  # fmt: skip
_CERTAIN: dict[MediaKind, Look] = {"image": Look.IMAGE, "video": Look.VIDEO}
_NAMED: dict[MediaKind, Look] = {"image": Look.IMAGE_NAME, "video": Look.VIDEO_NAME}


@dataclass
class Column:
    """A column that no field uses: the number of rows that fill it, and the kinds of content in its first values."""

    rows: int = 0
    looked_at: int = 0
    looks: Counter[Look] = field(default_factory=Counter)

    def add(self, value: Any, root: str, target: tuple[str, ...]) -> None:
        if value is None or value in ("", [], {}, b"") or (isinstance(value, str) and value.isspace()):
            return
        self.rows += 1
        if self.looked_at < _LOOKED_AT:
            self.looked_at += 1
            if look := look_at(value, root) or look_at_options(value, target) or look_at_messages(value):
                self.looks[look] += 1

    @property
    def media(self) -> MediaKind | None:
        """Return the kind of media that all values look like, or None."""
        kinds = {_KINDS[look] for look in self.looks if look in _KINDS}
        return kinds.pop() if len(kinds) == 1 and self._count(*_KINDS) else None

    @property
    def holds_media(self) -> bool:
        """Return whether all values are certainly media: bytes, base64 text, or files on this machine."""
        return self._count(Look.IMAGE, Look.VIDEO)

    @property
    def holds_messages(self) -> bool:
        """Return whether all values are conversations."""
        return self._count(Look.MESSAGES)

    @property
    def holds_options(self) -> bool:
        return self._count(Look.OPTIONS)

    def _count(self, *looks: Look) -> bool:
        return 0 < self.looked_at == sum(self.looks[look] for look in looks)


def suggest_field(name: str, column: Column, used: Counter[str]) -> str | None:
    """Return our field to which a column probably belongs, or None. ``used`` counts the rows that use each of our fields."""
    if not column.rows:
        return None
    has_media = any(used[ours] for ours in ("image", "image_path", "video"))
    if column.media and (column.holds_media or not has_media):
        return column.media
    free = {
        "question": not (used["question"] or used["messages"]),
        "options": not used["options"],
        "target": not (used["target"] or used["target_index"]),
        "image": not has_media,
        "video": not has_media,
    }
    if free["options"] and column.holds_options:
        return "options"
    if free["question"] and column.holds_messages:
        return "messages"
    lowered = name.casefold()
    for ours, is_free in free.items():
        known = [alias for alias in ALIASES[ours] if len(alias) > 3]
        if is_free and (lowered in SUGGESTED[ours] or difflib.get_close_matches(lowered, known, n=1, cutoff=_CLOSE)):
            return ours
    return None


def suggest_mapping(columns: Mapping[str, Column], used: Counter[str]) -> dict[str, str]:
    """Return the mapping that a dataset probably needs: one column for each of our fields."""
    found: dict[str, str] = {}
    for name, column in columns.items():
        if ours := suggest_field(name, column, used):
            found.setdefault(ours, name)
    if "messages" in found:
        found.pop("question", None)
    return {ours: found[ours] for ours in ALIASES if ours in found}


def write_mapping(mapping: Mapping[str, str]) -> str:
    """Return the line of a dataset that maps our fields to columns."""
    return f"fields: {{{', '.join(f'{ours}: {theirs}' for ours, theirs in mapping.items())}}}"


def look_at(value: Any, root: str) -> Look | None:
    """Return the kind of media that a value looks like, or None. All values of a list must look like the same kind."""
    if isinstance(value, list):
        looks = {look_at(one, root) for one in value}
        return looks.pop() if len(looks) == 1 else None
    if isinstance(value, dict):
        return look_at(find_content(value), root) if len(value) <= 3 else None
    if isinstance(value, bytes):
        return _look_at_bytes(value)
    return _look_at_text(value, root) if isinstance(value, str) else None


def look_at_options(value: Any, target: tuple[str, ...]) -> Look | None:
    """Return ``OPTIONS`` for a list or object of 2 to 26 texts if the target is one of the texts or one of their letters."""
    if isinstance(value, str):
        value = read_literal(value)
    if not isinstance(value, list | dict) or not 2 <= len(value) <= len(ascii_uppercase):
        return None
    letters = set(value) if isinstance(value, dict) else set(ascii_uppercase[: len(value)])
    texts = list(value.values()) if isinstance(value, dict) else value
    if not all(isinstance(text, str) for text in texts) or not letters <= set(ascii_uppercase):
        return None
    return Look.OPTIONS if target and all(text in letters or text in texts for text in target) else None


def look_at_messages(value: Any) -> Look | None:
    """Return ``MESSAGES`` for a list of turns: objects with role and content, or from and value."""
    if not isinstance(value, list) or not value:
        return None
    turns = all(isinstance(turn, dict) and any(pair <= turn.keys() for pair in _TURN_NAMES) for turn in value)
    return Look.MESSAGES if turns else None


def _look_at_bytes(value: bytes) -> Look | None:
    if value[4:8] == b"ftyp":
        return Look.VIDEO
    return next((_CERTAIN[kind] for magic, kind in _MAGICS.items() if value.startswith(magic)), None)


def _look_at_text(text: str, root: str) -> Look | None:
    head = text[:_HEAD].lstrip()
    if head[:11].lower() in ("data:image/", "data:video/"):
        return Look.VIDEO if head[5].lower() == "v" else Look.IMAGE
    if len(text) > 64 and " " not in head[:64]:
        try:
            start = base64.b64decode(standardize(head.encode())[:64], validate=True)
            found = None if start.startswith(b"BM") else _look_at_bytes(start)  # many texts that are not base64 begin like this
        except (binascii.Error, ValueError):
            found = None
        if found:
            return found
    if not text.strip() or "\n" in text or len(text) > 4096:
        return None
    kind = _SUFFIXES.get(PurePosixPath(text.partition("?")[0]).suffix.lower())
    if kind is None:
        return None
    try:
        path = find_path(refer(text, kind, root).media)
    except SampleError:
        return None
    is_address = is_remote(text)  # a text of a column that no field uses causes no request to another bucket
    return _CERTAIN[kind] if path and not is_address and find_size(path) is not None else _NAMED[kind]
