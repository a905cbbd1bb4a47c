"""Read YAML strictly: one document, no duplicate keys, no aliases. Errors name file, line and field."""

from typing import Any

import yaml

from common.errors import ConfigError

# A spec has a few kilobytes. A much longer text is a mistake, such as a dataset in place of the spec.
MOST_CHARACTERS = 10_000_000


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text. ``where`` names the text in error messages.

    Raises ``ConfigError``, also for duplicate keys and aliases. PyYAML accepts both and keeps the last value of a duplicate key.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{where}: more than {MOST_CHARACTERS:,} characters; expected a spec or a profile, of a few kilobytes")
    try:
        loader = _StrictLoader(text, where)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain_mistake(error, where)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where}: not valid YAML (line {line}): the character #x{error.character:04x}; remove it") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply; expected a few levels") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        raise ConfigError(f"{where}: not valid YAML: {error}") from error


# Maps a part of a PyYAML message to advice. Questions and templates often contain characters that have a meaning in YAML.
_ADVICE = {
    r"'\t'": "indent with spaces, not with tabs",
    "cannot start any token": "put quotes around the text",
    "got '?'": "put quotes around text with a question mark",
    "mapping values are not allowed": "put quotes around text with a colon, or correct the indentation",
    "unhashable key": "put quotes around text that begins with {{",
    "found '<scalar>'": "put quotes around the whole text",
}


class _StrictLoader(yaml.SafeLoader):
    """A loader that rejects aliases and duplicate keys.

    Without aliases, a short text cannot expand to terabytes, and a value cannot contain itself.
    """

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self._where = where
        self._path: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node. ``index`` is the node of its key, its list index, or ``None`` for a key or the document."""
        steps = [] if index is None else [_name_step(index)]
        self._path += steps
        if self.check_event(yaml.AliasEvent):
            alias: Any = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs have no types here
            message = f"found the alias *{alias.anchor}; write the value out, or quote it if it is text"
            raise self._mistake(alias, self._path, message)
        node = super().compose_node(parent, index)
        self._path = self._path[: len(self._path) - len(steps)]
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Raises ``ConfigError`` for a duplicate key."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (first := seen.setdefault((key.tag, key.value), key)) is not key:
                line = first.start_mark.line + 1
                raise self._mistake(
                    key, [*self._path, key.value], f"duplicate key, first set in line {line}; expected each key once"
                )
        return node

    def _mistake(self, at: Any, path: list[str], message: str) -> ConfigError:
        place = [self._where, f"line {at.start_mark.line + 1}", ".".join(path), message]
        return ConfigError(": ".join(filter(None, place)))


def _name_step(index: Any) -> str:
    """Return a node's step in a dotted path: its index in a list, or its key in a mapping."""
    return str(index) if isinstance(index, int) else index.value if isinstance(index, yaml.ScalarNode) else "?"


def _explain_mistake(error: yaml.MarkedYAMLError, where: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    problem = ": ".join(filter(None, (error.context, error.problem)))
    hint = next((f"; {advice}" for part, advice in _ADVICE.items() if part in problem), "")
    return f"{where}: not valid YAML{place}: {problem}{hint}"
