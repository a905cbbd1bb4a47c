"""The sandbox of templates: a subset of Jinja2 with bounded loops. Templates can access only the fields of a row.

Import this module only to compile a template, because importing jinja2 takes time.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, Final

from jinja2 import (
    Environment,
    StrictUndefined,
    TemplateRuntimeError,
    TemplateSyntaxError,
    Undefined,
    nodes,
    pass_context,
    pass_environment,
)
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import htmlsafe_json_dumps

from common.prompts.markers import drop_markers

MOST_ITERATIONS: Final = 10_000  # of all loops of one rendering together
MOST_DEPTH: Final = 3  # of nested loops
MOST_CHARACTERS: Final = 10_000_000  # of the result of a filter, and of a rendered text
MOST_INSERTED_CHARACTERS: Final = 1000  # of a text that join or replace inserts
MOST_INDENT: Final = 100  # of tojson, in characters
BUDGET: Final = "_iterations"  # the counter's name in the context; templates cannot use names that begin with _

# fmt: off
_NODES = frozenset({
    "And", "Call", "Compare", "Concat", "CondExpr", "Const", "Dict", "Filter", "For", "Getattr", "Getitem", "If", "Keyword", "List",
    "Name", "Neg", "Not", "Operand", "Or", "Output", "Pair", "Slice", "Template", "TemplateData", "Test", "Tuple",
})
# The result of these filters and methods is not much longer than their input, and it is not random.
_FILTERS = frozenset({
    "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join", "last", "length", "list", "lower",
    "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "select", "selectattr", "sort", "string", "sum", "title",
    "tojson", "trim", "truncate", "unique", "upper", "wordcount",
})
_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "get", "isdigit", "items", "keys", "lower", "lstrip", "removeprefix",
    "removesuffix", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper", "values",
})
# fmt: on
_TAGS = {"Assign": "set", "AssignBlock": "set", "CallBlock": "call", "FromImport": "from", "FilterBlock": "filter"}


class Budget:
    """Counts the iterations of all loops of one rendering."""

    def __init__(self) -> None:
        self._left = MOST_ITERATIONS

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TemplateRuntimeError(f"its loops have more than {MOST_ITERATIONS:,} iterations; expected fewer")


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates. It has no global functions, and only the filters and methods that this module lists.

    The texts of a template lose their markers of ``missing_kinds``, the kinds of media that a row does not have.
    """

    def __init__(self, missing_kinds: frozenset[str] = frozenset()) -> None:
        self._missing_kinds = missing_kinds
        super().__init__(autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_check_value)
        self.globals.clear()
        allowed = {name: _LIMITED.get(name, call) for name, call in self.filters.items() if name in _FILTERS}
        self.filters = {name: _limit_result(call) for name, call in allowed.items()} | {"counted": _count_iterations}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Node):
            if found := _find_forbidden(node):
                raise TemplateSyntaxError(f"a template cannot use {found}", node.lineno)
        for loop in list(tree.find_all(nodes.For)):
            if _count_depth(loop) > MOST_DEPTH:
                raise TemplateSyntaxError(f"more than {MOST_DEPTH} loops within each other; expected fewer", loop.lineno)
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        first = next(iter(tree.body), None)
        for output in tree.find_all(nodes.Output) if self._missing_kinds else ():
            for number, part in enumerate(output.nodes):
                self._drop_markers(part, begins_line=output is first and number == 0)
        return tree

    def _drop_markers(self, part: nodes.Expr | None, *, begins_line: bool = False) -> None:
        """Drop markers from the texts that a part of the output writes itself. The values of the row keep theirs."""
        if isinstance(part, nodes.TemplateData):
            part.data = drop_markers(part.data, self._missing_kinds, begins_line=begins_line)
        elif isinstance(part, nodes.Const) and isinstance(part.value, str):
            part.value = drop_markers(part.value, self._missing_kinds)
        elif isinstance(part, nodes.Concat):
            for inner in part.nodes:
                self._drop_markers(inner)
        elif isinstance(part, nodes.CondExpr):
            self._drop_markers(part.expr1)
            self._drop_markers(part.expr2)


def _find_forbidden(node: nodes.Node) -> str | None:
    """Return the name of a part of the language that templates cannot use, or None."""
    kind = type(node).__name__
    if kind not in _NODES:
        return _TAGS.get(kind, kind.lower())
    if isinstance(node, nodes.For) and node.recursive:
        return "recursive"
    if isinstance(node, nodes.Call) and not (isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS):
        return f"this call; it can call the methods {', '.join(sorted(_METHODS))}"
    name = node.name if isinstance(node, nodes.Name) else node.attr if isinstance(node, nodes.Getattr) else ""
    return f"the name {name!r}, because it begins with _" if name.startswith("_") else None


def _check_value(value: Any) -> Any:
    """Return a value that can be printed. Raises ``TypeError`` for any other object, such as a method without its ``()``.

    The text of such an object differs between processes.
    """
    if isinstance(value, str | int | float | list | tuple | dict | Undefined | None):
        return value
    raise TypeError(f"found {type(value).__name__} in {{{{ … }}}}; expected text, a number, a list or a mapping")


def _count_depth(loop: nodes.For) -> int:
    """Return the depth of the nested loops, from ``loop`` inwards."""
    return 1 + max((_count_depth(inner) for inner in loop.iter_child_nodes() for inner in _find_loops(inner)), default=0)


def _find_loops(node: nodes.Node) -> Iterator[nodes.For]:
    """Yield the outermost loops in a node."""
    if isinstance(node, nodes.For):
        yield node
    else:
        for child in node.iter_child_nodes():
            yield from _find_loops(child)


def _limit_result(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses a long text."""

    @wraps(call)  # keeps the attribute by which Jinja2 passes the context
    def apply(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        if isinstance(result, str):
            _check_size(len(result))
        return result

    return apply


def _check_size(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise TemplateRuntimeError(f"the result of a filter has more than {MOST_CHARACTERS:,} characters")


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    """Join texts as Jinja2 does. Refuse a long result before it is built."""
    separator = _check_inserted(d)
    size, texts = -len(separator), []
    for item in value if attribute is None else map(make_attrgetter(environment, attribute), value):
        texts.append(str(item))
        size += len(separator) + len(texts[-1])
        _check_size(size)
    return separator.join(texts)


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Replace a text as Jinja2 does. Refuse a long result before it is built."""
    text, before, after = str(s), _check_inserted(old), _check_inserted(new)
    places = text.count(before)
    if count is not None and count >= 0:
        places = min(places, count)
    _check_size(len(text) + places * (len(after) - len(before)))
    return text.replace(before, after, places)


def _check_inserted(value: Any) -> str:
    text = str(value)
    if len(text) > MOST_INSERTED_CHARACTERS:
        raise TemplateRuntimeError(f"a text to insert has more than {MOST_INSERTED_CHARACTERS:,} characters")
    return text


def _tojson(value: Any, indent: int | None = None) -> str:
    """Write JSON as Jinja2 does. Refuse a long result before it is built."""
    if isinstance(indent, bool) or not isinstance(indent, int | None):
        raise TemplateRuntimeError(f"the indent of tojson is {type(indent).__name__}; expected a whole number")
    if indent is not None and indent > MOST_INDENT:
        raise TemplateRuntimeError(f"an indent of more than {MOST_INDENT} characters")
    return htmlsafe_json_dumps(value, dumps=_write_json, sort_keys=True, indent=indent)


def _write_json(value: Any, *, sort_keys: bool, indent: int | None) -> str:
    size, parts = 0, []
    for part in json.JSONEncoder(sort_keys=sort_keys, indent=indent).iterencode(value):
        size += len(part)
        _check_size(size)
        parts.append(part)
    return "".join(parts)


_LIMITED = {"join": _join, "replace": _replace, "tojson": _tojson}


@pass_context
def _count_iterations(context: Context, items: Any) -> Iterator[Any]:
    budget: Budget = context[BUDGET]
    for item in items:
        budget.spend()
        yield item
