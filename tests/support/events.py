"""Print docs/events.md for the log events of the source, with the current meanings of the page.

Write to another file first. A shell that redirects to docs/events.md empties the page before this module reads the meanings.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/events.md"
SOURCES = ("common", "producer", "workers")
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error", "critical": "critical"}
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
HEAD = """# Log events

Every line of the log has a stable event name and fields. Scripts may rely on both; a test compares this page with the code.

| event | level | fields | meaning |
| --- | --- | --- | --- |
"""


@dataclass
class Event:
    """A log event with the levels and the keyword fields of all its calls."""

    name: str
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)

    def row(self, meaning: str) -> str:
        """Return this event's row of docs/events.md."""
        fields = ", ".join(f"`{name}`" for name in sorted(self.fields))
        return f"| `{self.name}` | {', '.join(sorted(self.levels))} | {fields} | {meaning} |"


def is_logger(node: ast.expr) -> bool:
    """Return whether NODE is a logger: log, chunk_log, self._log, or one of them with bound fields."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and is_logger(node.func.value)
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.split("_")[-1] in {"log", "logger"}


def read_names(node: ast.expr) -> list[str]:
    """Return the names that the first argument of a call can have. For a computed name, return its source."""
    if isinstance(node, ast.IfExp):
        return [*read_names(node.body), *read_names(node.orelse)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    return [ast.unparse(node)]


def find_calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield the place, the level and the node of every log call, with the fields that ``chunk_log = log.bind(...)`` adds."""
    for path in sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")):
        bound: list[ast.keyword] = []  # set by the last ``chunk_log = log.bind(...)`` above
        for node in walk_in_order(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not is_logger(node.func.value):
                continue
            if node.func.attr == "bind":
                bound = node.keywords
            elif node.func.attr in LEVELS:
                if isinstance(node.func.value, ast.Name) and node.func.value.id != "log":
                    node.keywords.extend(bound)
                yield f"{path.relative_to(ROOT)}:{node.lineno}", LEVELS[node.func.attr], node


def walk_in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all its descendants in the order of the source."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk_in_order(child)


def find_unnamed() -> list[str]:
    """Return the place and text of every log call whose event is not an identifier."""
    return [
        f"{place}: {name}"
        for place, _, call in find_calls()
        for name in (read_names(call.args[0]) if call.args else ["no event"])
        if not IDENTIFIER.fullmatch(name)
    ]


def find_events() -> dict[str, Event]:
    """Return the log events of the source whose names are identifiers, by name."""
    events: dict[str, Event] = {}
    for _, level, call in find_calls():
        for name in filter(IDENTIFIER.fullmatch, read_names(call.args[0]) if call.args else []):
            event = events.setdefault(name, Event(name))
            event.levels.add(level)
            event.fields |= {keyword.arg for keyword in call.keywords if keyword.arg and keyword.arg != "exc_info"}
    return dict(sorted(events.items()))


def read_rows() -> list[list[str]]:
    """Return the cells of the rows in docs/events.md."""
    rows = re.findall(r"^\| `.*\|$", PAGE.read_text(), re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def write_page() -> str:
    """Return docs/events.md with the events of the source and the meanings of the current page."""
    meanings = {row[0].strip("`"): row[-1] for row in read_rows()}
    return HEAD + "".join(event.row(meanings.get(name, "")) + "\n" for name, event in find_events().items())


if __name__ == "__main__":
    sys.stdout.write(write_page())
