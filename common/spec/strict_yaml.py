"""YAML as we take it: one document, no key twice, no anchors that blow up.  Mistakes name the place and speak to a person."""

from typing import Any

import yaml

from common.errors import ConfigError

# A spec has a few kilobytes.  A text of these few kilobytes can stand for terabytes once its anchors are followed.
MOST_CHARACTERS = 10_000_000


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text holds; ``where`` is for messages.

    Raises ``ConfigError``, also for what PyYAML takes in silence: a key given twice (it keeps the last), an anchor that holds
    itself, and anchors that stand for more than ``MOST_CHARACTERS`` in all.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{where}: more than {MOST_CHARACTERS:,} characters; expected a spec or a profile, of a few kilobytes")
    try:
        return _load(text, where)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain_mistake(error, where)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where}: not valid YAML (line {line}): the character #x{error.character:04x}; remove it") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply; expected a few levels") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        raise ConfigError(f"{where}: not valid YAML: {error}") from error


def _load(text: str, where: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, where, "", {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _explain_mistake(error: yaml.MarkedYAMLError, where: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    said = ": ".join(filter(None, (error.context, error.problem)))
    hint = "; indent with spaces, not with tabs" if "'\\t'" in said else ""
    return f"{where}: not valid YAML{place}: {said}{hint}"


def _measure(node: yaml.Node, where: str, at: str, sizes: dict[yaml.Node, int | None]) -> int:
    """Return how many characters a node stands for, anchors followed; ``at`` is its dotted path.

    ``sizes`` has those of the nodes seen before, ``None`` for those that are being measured.
    """
    if node not in sizes:
        sizes[node] = None
        own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        sizes[node] = 1 + own + sum(_measure(inner, where, path, sizes) for inner, path in _list_inner(node, where, at))
    size = sizes[node]
    place = f"{where}: line {node.start_mark.line + 1}: {at}"
    if size is None:
        raise ConfigError(f"{place}: its anchor holds itself; write the value out")
    if size > MOST_CHARACTERS:
        raise ConfigError(f"{place}: its anchors stand for more than {MOST_CHARACTERS:,} characters; write out what is meant")
    return size


def _list_inner(node: yaml.Node, where: str, at: str) -> list[tuple[yaml.Node, str]]:
    """Return the nodes right below, keys among them, with their paths.  Raises ``ConfigError`` for a key given twice."""
    prefix = f"{at}." if at else ""
    if isinstance(node, yaml.SequenceNode):
        return [(inner, f"{prefix}{number}") for number, inner in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return []
    inner: list[tuple[yaml.Node, str]] = []
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        path = prefix + (key.value if isinstance(key, yaml.ScalarNode) else "?")
        if isinstance(key, yaml.ScalarNode):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise ConfigError(f"{where}: line {line}: {path}: given twice, first in line {lines[name]}; expected it once")
            lines[name] = line
        inner += [(key, path), (value, path)]
    return inner
