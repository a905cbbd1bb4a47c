"""Print the findings of ``workers check``: one JSON object for scripts, a table in a terminal, otherwise plain lines."""

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from workers.doctor.finding import Finding, find_exit_code

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print each finding with its advice. The last line states whether this node can run workers."""
    if console.is_terminal:
        console.print(findings_table(findings))
    else:
        for finding in findings:
            advice = f"; {finding.advice}" if finding.advice else ""
            _print(console, f"{finding.level:<7}  {finding.what}: {finding.found}{advice}")
    _print(console, summarize(findings))


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table with the columns level, check and result. Advice is on a separate line of the result."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for is_long in (False, False, True):
        table.add_column(no_wrap=not is_long, overflow="fold")
    for finding in findings:
        result = Text(finding.found)
        if finding.advice:
            result.append(f"\n{finding.advice}", style="bold")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(finding.what), result)
    return table


def summarize(findings: Sequence[Finding]) -> str:
    """Return one line: whether this node can run workers, and the numbers of problems and warnings."""
    levels = [finding.level for finding in findings]
    verdict = "cannot" if "problem" in levels else "can"
    return (
        f"{socket.gethostname()}: this node {verdict} run; problems: {levels.count('problem')}, warnings: {levels.count('warning')}"
    )


def to_json(findings: Sequence[Finding]) -> str:
    """Return a JSON object with ``host``, ``exit_code`` and ``findings``.

    Each finding has the keys ``what``, ``level``, ``found``, ``advice`` and ``unreachable``.
    """
    report = {"host": socket.gethostname(), "exit_code": find_exit_code(findings), "findings": [asdict(one) for one in findings]}
    return json.dumps(report, indent=2, ensure_ascii=False)


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
