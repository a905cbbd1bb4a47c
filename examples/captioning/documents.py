"""The shapes of a project: the elements of ``jsons/*.json``, each with its details in ``json_detail/ELEMENT.json``."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import ConfigError

NOT_SHAPES = frozenset({"TextElement", "ImageElement"})


class DocumentError(ConfigError):
    """A document or an element cannot be read. The message names the file, the field and the expected value."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape image: its path below the image folder, the element and document that contain it, and its context."""

    image: str
    element: str
    document: str
    context: str


@dataclass
class Found:
    """The counts of elements that ``iterate_shapes`` did not yield, and the faults of the project's files.

    ``others`` counts text and image elements by type, and ``repeated`` counts the repetitions of an image.
    """

    others: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    faults: list[str] = field(default_factory=list)


def iterate_shapes(project: Path, found: Found) -> Iterator[Shape]:
    """Yield the shapes of a project, one document at a time, and each image only once.

    Text and image elements are counted in ``found`` by their type. If a document or an element cannot be read, its fault is added
    to ``found``, and the next element is read. Raises ``ConfigError`` if the project does not have documents.
    """
    documents = sorted((project / "jsons").glob("*.json"))
    if not documents:
        raise ConfigError(f"{project / 'jsons'}: no JSON files found; expected at least one document, such as jsons/page-1.json")
    seen: set[str] = set()
    for path in documents:
        try:
            elements = _read_list(_read_object(path), "elements", path)
        except DocumentError as error:
            found.faults.append(str(error))
            continue
        for element in elements:
            try:
                shape = _read_shape(element, path, project / "json_detail", found.others)
            except DocumentError as error:
                found.faults.append(str(error))
                continue
            if shape and shape.image in seen:
                found.repeated += 1
            elif shape:
                seen.add(shape.image)
                yield shape


def _read_shape(element: Any, document: Path, details: Path, others: Counter[str]) -> Shape | None:
    """Return the shape of an element, or None if it is a text or an image."""
    if not isinstance(element, dict):
        raise DocumentError(f"{document}: elements: found {element!r:.80}; expected an object with id and type")
    kind, name = _read_text(element, "type", document), _read_text(element, "id", document)
    if kind in NOT_SHAPES:
        others[kind] += 1
        return None
    path = details / f"{name}.json"
    if path.parent != details:
        raise DocumentError(f"{document}: id: found {name!r}; expected a name without folders")
    detail = _read_object(path)
    image = PurePosixPath(_read_text(detail, "image", path))
    if image.is_absolute() or ".." in image.parts:
        raise DocumentError(f"{path}: image: found {str(image)!r}; expected a path below the image folder")
    return Shape(str(image), name, document.stem, _read_text(detail, "context", path))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read ({error.strerror}); expected a JSON object") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deep
        raise DocumentError(f"{path}: not JSON ({error}); expected a JSON object in UTF-8") from error
    if not isinstance(content, dict):
        raise DocumentError(f"{path}: found {content!r:.80}; expected a JSON object")
    return content


def _read_list(record: dict[str, Any], name: str, path: Path) -> list[Any]:
    if not isinstance(found := record.get(name), list):
        raise DocumentError(f"{path}: {name}: found {found!r:.80}; expected a list")
    return found


def _read_text(record: dict[str, Any], name: str, path: Path) -> str:
    found = record.get(name)
    if not isinstance(found, str) or not found.strip() or "\0" in found or _has_surrogate(found):
        raise DocumentError(f"{path}: {name}: found {found!r:.80}; expected a text")
    return found


def _has_surrogate(text: str) -> bool:
    """Return whether UTF-8 cannot encode the text. JSON can contain half of a surrogate pair."""
    return any("\ud800" <= character <= "\udfff" for character in text)
