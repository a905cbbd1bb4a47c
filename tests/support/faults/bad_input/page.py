"""The page ``docs/bad-input.md``, made from the tables."""

from collections.abc import Sequence

from tests.support.faults.bad_input import datasets, images, places, references, rows, services, specs, tables
from tests.support.faults.bad_input.cases import Case, RowCase, Topic

COMMAND = "python -m tests.support.faults.bad_input > docs/bad-input.md"

ROW_TOPICS = (
    Topic("Images that are refused", images.REFUSED),
    Topic("Images that are odd and asked about", images.ACCEPTED),
    Topic("Where media are looked for", places.PLACES),
    Topic("What a row gives as its image", references.REFERENCES),
    Topic("Rows of JSON lines that are refused", (*rows.LINES, *rows.LONG_LINES)),
    Topic("Rows of JSON lines that are odd and asked", rows.ODD_LINES),
    Topic("Rows of TSV files", tables.TABLES),
)
COMMAND_TOPICS = (
    Topic("Dataset files", datasets.DATASETS),
    Topic("Specs", specs.SPECS),
    Topic("Model profiles", specs.PROFILES),
    Topic("`--set`", specs.CHANGES),
    Topic("Services and settings", services.SERVICES),
)

_INTRODUCTION = f"""# Bad input: what happens, and what you are told

Each case below is tested as it stands here (`tests/faults/input/test_bad_input.py`): a bad row becomes that sample's
outcome and stops no other; a bad file, spec or setting ends the command. `…` stands for what differs.

<!-- Made from the test's own tables; do not edit. Make it again with: {COMMAND} -->
"""


def list_row_cases() -> list[RowCase]:
    """Return the cases that a fleet runs."""
    return [case for topic in ROW_TOPICS for case in topic.cases if isinstance(case, RowCase)]


def make_page() -> str:
    """Return the page as Markdown."""
    return _INTRODUCTION + "".join(_make_table(topic) for topic in (*ROW_TOPICS, *COMMAND_TOPICS))


def _make_table(topic: Topic) -> str:
    lines = [f"\n## {topic.title}", "| case | what you give | outcome | what you are told |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *map(_make_line, topic.cases)]) + "\n"


def _make_line(case: Case) -> str:
    asked = isinstance(case, RowCase) and case.outcome == "ok"
    told = case.message if asked else "<br>".join(f"`{line.strip()}`" for line in case.message.splitlines())
    cells: Sequence[str] = (case.name, case.given, case.told, told)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
