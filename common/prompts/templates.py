"""Render a template with the fields of a row.

A template can contain text, ``{{ … }}``, ``if``, ``for``, filters, and the methods of texts, lists and mappings that return a part
of them. It cannot assign variables, define macros, include other templates or compute with numbers. Its loops and its output are
limited, so a template cannot block a producer or a worker or fill its memory.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from common.errors import ConfigError, SampleError
from common.prompts.built_in import TEMPLATES
from common.prompts.hidden_targets import SECRET_NAMES, hide_targets
from common.records import Kind, Sample
from common.sample_codes import SampleCode
from common.spelling import suggest

if TYPE_CHECKING:
    from jinja2 import Environment, Template
MOST_TEMPLATE_CHARACTERS: Final = 20_000

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = frozenset({str, int, bool, type(None)})  # the plan keeps these values unchanged
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class TemplateFault(SampleError):
    """A template cannot be rendered with the fields of a row. For example, it names a field that the row does not have."""

    def __init__(self, message: str) -> None:
        super().__init__(SampleCode.BAD_FIELD, message)


def find_template(text: str, where: str) -> str:
    """Return the text of a template. The name of a built-in template gives its text. Any other text is returned unchanged.

    Raises ``ConfigError`` for a single word that is not the name of a built-in template.
    """
    if text in TEMPLATES:
        return TEMPLATES[text]
    if _NAME.fullmatch(text):
        expected = f"expected {', '.join(TEMPLATES)}, or a text with {{{{ question }}}}"
        raise ConfigError(f"{where}: no template is called {text!r}{suggest(text, TEMPLATES)}; {expected}")
    return text


def check_template(text: str, where: str) -> None:
    """Raise ``ConfigError`` if a template has a syntax error or uses a forbidden part of Jinja2. ``where`` names its field."""
    _compile(text, where)


def list_fields(sample: Sample) -> dict[str, Any]:
    """Return the fields of a row that templates can name. The target is not one of them."""
    stored = sample.metadata
    if any(type(value) not in _PLAIN for value in stored.values()):
        # Convert the values as the plan does, so that producer and worker render the same text.
        stored = json.loads(sample.model_dump_json(include={"metadata"}))["metadata"]
    metadata = hide_targets(stored)  # null counts as absent here, or a template would print "None"
    return {
        **{name: value for name, value in metadata.items() if not name.startswith("_")},
        **_list_question(sample.question, sample.hint, sample.options, sample.kind),
        "index": sample.index,
        "dataset": sample.dataset,
        "metadata": metadata,
    }


def change_question(
    fields: Mapping[str, Any], question: str, hint: str | None, options: Mapping[str, str], kind: Kind
) -> dict[str, Any]:
    """Return the fields of a row with another question, for an example that precedes the row."""
    return {**fields, **_list_question(question, hint, options, kind)}


def _list_question(question: str, hint: str | None, options: Mapping[str, str], kind: Kind) -> dict[str, Any]:
    return {"question": question, "hint": hint or "", "options": options, "letters": list(options), "kind": kind}


def render_template(text: str, fields: Mapping[str, Any], where: str, missing_kinds: frozenset[str] = frozenset()) -> str:
    """Return the text of a template for the fields of a row. ``where`` names the template's field in messages.

    ``missing_kinds`` are the kinds of media that the row does not have. Markers of these kinds in the template are dropped.

    Raises ``TemplateFault`` if the row does not have a field of the template, if the template fails with the values of the row, or
    if it exceeds a limit. Raises ``ConfigError`` if the template itself is invalid.
    """
    from jinja2 import UndefinedError

    from common.prompts.sandbox import BUDGET, MOST_CHARACTERS, Budget

    template = _compile(text, where, missing_kinds)
    most = max(MOST_CHARACTERS, 2 * len(fields["question"]))
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate({**fields, BUDGET: Budget()}):
            length += len(piece)
            if length > most:
                raise TemplateFault(f"{where}: the text has more than {most:,} characters; shorten the template")
            pieces.append(piece)
    except TemplateFault:
        raise
    except UndefinedError as error:
        raise _explain_missing(str(error), fields, where) from None
    except Exception as error:  # noqa: BLE001  a value may have a type that a filter does not accept
        # The plan contains the message, so it must be the same in each process.
        reason = _ADDRESS.sub("", f"{type(error).__name__}: {error}")
        raise TemplateFault(f"{where}: the template fails with the fields of this row: {reason}") from None
    return "".join(pieces)


def _explain_missing(message: str, fields: Mapping[str, Any], where: str) -> TemplateFault:
    names = sorted(fields)
    found = re.match(r"'(?P<name>.+)' is undefined|.* has no (attribute|element) '(?P<part>.+)'", message)
    near = suggest(found["name"], names) if found and found["name"] else ""
    if found and (found["name"] or found["part"]).lower() in SECRET_NAMES:
        near = "; a prompt cannot contain the target"
    return TemplateFault(f"{where}: {message}{near}; the row has: {', '.join(names)}")


@lru_cache(maxsize=256)
def _compile(text: str, where: str, missing_kinds: frozenset[str] = frozenset()) -> "Template":
    from jinja2 import TemplateSyntaxError

    if len(text) > MOST_TEMPLATE_CHARACTERS:
        raise ConfigError(f"{where}: found {len(text):,} characters; expected at most {MOST_TEMPLATE_CHARACTERS:,}")
    try:
        return _make_sandbox(missing_kinds).from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{where}: line {error.lineno}: {error.message}; docs/prompts.md describes templates") from None
    except (RecursionError, SyntaxError, MemoryError):  # Python's compiler raises these
        raise ConfigError(f"{where}: it is nested too deeply; expected a simpler template") from None


@lru_cache(maxsize=4)  # one for each set of kinds
def _make_sandbox(missing_kinds: frozenset[str]) -> "Environment":
    from common.prompts.sandbox import Sandbox

    return Sandbox(missing_kinds)
