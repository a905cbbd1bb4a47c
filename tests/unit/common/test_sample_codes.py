"""Codes of failed samples: the source raises exactly these codes, and each code has advice."""

import ast
from collections.abc import Iterator
from pathlib import Path

from common.sample_codes import ADVICE, SampleCode

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("common", "producer", "workers")
_MAKERS = ("SampleError", "Fault")


def test_every_code_has_advice() -> None:
    assert set(ADVICE) == set(SampleCode)
    assert all(ADVICE.values())


def test_source_raises_exactly_the_known_codes() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    raised = {code for path in files for code in find_codes(ast.parse(path.read_text(encoding="utf-8")))}
    assert raised == set(SampleCode)


def test_codes_are_found_in_every_form() -> None:
    source = """
SampleError("one", "m")
errors.SampleError(code="two", message="m")
Fault(code="three", message="m")
SampleError(SampleCode.BAD_ROW, "m")
SampleError(fault.code, "m")
SampleError(f(), "m")
class Full(SampleError):
    code = "four"
"""
    assert list(find_codes(ast.parse(source))) == ["one", "two", "three", "bad_row", "? f()", "four"]


def find_codes(tree: ast.Module) -> Iterator[str]:
    """Yield the codes of the sample errors in a module. Yield ``? EXPRESSION`` for a code that is not a literal."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call | ast.ClassDef)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if isinstance(node, ast.ClassDef):
            yield from _codes_of_class(node)
        elif _last_name(node.func) in _MAKERS:
            given = node.args[0] if node.args else next(keyword.value for keyword in node.keywords if keyword.arg == "code")
            yield from _read_code(given)


def _codes_of_class(node: ast.ClassDef) -> Iterator[str]:
    if any(_last_name(base) == "SampleError" for base in node.bases):
        for line in node.body:
            if isinstance(line, ast.Assign) and _last_name(line.targets[0]) == "code":
                yield from _read_code(line.value)


def _read_code(given: ast.expr) -> Iterator[str]:
    if isinstance(given, ast.Constant):
        yield str(given.value)
    elif isinstance(given, ast.Attribute) and _last_name(given.value) == "SampleCode":
        yield SampleCode[given.attr].value
    elif _last_name(given) != "code":  # an attribute named ``code`` passes on the code of another error
        yield f"? {ast.unparse(given)}"


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
