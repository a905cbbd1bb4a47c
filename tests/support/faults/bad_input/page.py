"""The page ``docs/bad-input.md``, generated from the tables."""

from collections.abc import Sequence

from tests.support.faults.bad_input import (
    conversations,
    datasets,
    files,
    formats,
    images,
    places,
    references,
    remote,
    rows,
    services,
    specs,
    tables,
)
from tests.support.faults.bad_input.cases import Case, RowCase, Topic

COMMAND = "python -m tests.support.faults.bad_input > docs/bad-input.md"

ROW_TOPICS = (
    Topic("Images that are refused", images.REFUSED),
    Topic("Unusual images that are accepted", images.ACCEPTED),
    Topic("Paths of media", places.PLACES),
    Topic("Image fields of a row", references.REFERENCES),
    Topic("Media in object storage", remote.REMOTE),
    Topic("Rows of JSON lines that are refused", (*rows.LINES, *rows.LONG_LINES)),
    Topic("Unusual rows of JSON lines that are accepted", rows.ODD_LINES),
    Topic("Conversations, options and rows with the same request", conversations.CONVERSATIONS),
    Topic("Rows of TSV files", tables.TABLES),
    Topic("Rows of CSV files", formats.CSV),
    Topic("Rows of JSON files", formats.JSON),
    Topic("Rows of Parquet files", formats.PARQUET),
    Topic("Rows of compressed files", formats.PACKED),
)
COMMAND_TOPICS = (
    Topic("Dataset files", datasets.DATASETS),
    Topic("Files of tables, JSON and Parquet", files.FILES),
    Topic("Specs", specs.SPECS),
    Topic("Model profiles", specs.PROFILES),
    Topic("`--set`", specs.CHANGES),
    Topic("Services and settings", services.SERVICES),
)

_INTRODUCTION = f"""# Bad input: outcomes and messages

Each case below is a test (`tests/faults/input/test_bad_input.py`). A bad row becomes that sample's outcome and does not
affect other samples. A bad file, spec or setting ends the command. `…` stands for text that varies.

<!-- Generated from the tables of the test; do not edit. Generate it again with: {COMMAND} -->
"""


def list_row_cases() -> list[RowCase]:
    """Return the cases that a fleet runs."""
    return [case for topic in ROW_TOPICS for case in topic.cases if isinstance(case, RowCase)]


def make_page() -> str:
    """Return ``docs/bad-input.md`` as Markdown."""
    return _INTRODUCTION + "".join(_make_table(topic) for topic in (*ROW_TOPICS, *COMMAND_TOPICS))


def _make_table(topic: Topic) -> str:
    lines = [f"\n## {topic.title}", "| case | input | outcome | message |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *map(_make_line, topic.cases)]) + "\n"


def _make_line(case: Case) -> str:
    asked = isinstance(case, RowCase) and case.outcome == "ok"
    message = case.message if asked else "<br>".join(f"`{line.strip()}`" for line in case.message.splitlines())
    cells: Sequence[str] = (case.name, case.given, case.outcome_text, message)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
