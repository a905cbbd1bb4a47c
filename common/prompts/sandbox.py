"""The sandbox of templates: Jinja2 with a part of its language, bounded loops, and no objects but the fields of a row.

Import this module only to compile a template, because jinja2 takes time to import.
"""

from collections.abc import Iterator
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateRuntimeError, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_ITERATIONS: Final = 10_000  # of all loops of one rendering
BUDGET: Final = "_iterations"  # the counter's name in the context; templates cannot use names that begin with _

# fmt: off
_NODES = frozenset({
    "And", "Call", "Compare", "Concat", "CondExpr", "Const", "Dict", "Filter", "For", "Getattr", "Getitem", "If", "Keyword", "List",
    "Name", "Neg", "Not", "Operand", "Or", "Output", "Pair", "Slice", "Template", "TemplateData", "Test", "Tuple",
})
# Filters and methods whose result is not much longer than their input, and does not depend on chance.
_FILTERS = frozenset({
    "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join", "last", "length", "list", "lower",
    "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "string", "sum", "title", "tojson",
    "trim", "truncate", "unique", "upper", "wordcount",
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
    """Compiles templates. It has no global functions, and only the filters and methods that this module lists."""

    def __init__(self) -> None:
        super().__init__(autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_check_value)
        self.globals.clear()
        self.filters = {name: call for name, call in self.filters.items() if name in _FILTERS} | {"counted": _count_iterations}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Node):
            if found := _find_forbidden(node):
                raise TemplateSyntaxError(f"a template cannot use {found}", node.lineno)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return tree


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
    """Return a value to print. The text of any other object, such as a method without its (), differs between processes."""
    if isinstance(value, str | int | float | list | tuple | dict | Undefined | None):
        return value
    raise TypeError(f"found {type(value).__name__} in {{{{ … }}}}; expected text, a number, a list or a mapping")


@pass_context
def _count_iterations(context: Context, items: Any) -> Iterator[Any]:
    budget: Budget = context[BUDGET]
    for item in items:
        budget.spend()
        yield item
