"""docs/reference.md lists every field, setting, validator, code and column, with a meaning."""

import re

from common.sample_codes import SampleCode
from tests.support.fleet import ROOT
from tests.support.reference.page import COMMAND, make_page
from workers.engines.registry import ENGINES

PAGE = ROOT / "docs" / "reference.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), f"docs/reference.md is stale; run: {COMMAND}"


def test_every_entry_has_a_meaning() -> None:
    rows = [line for line in make_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == []


def test_page_describes_each_own_engine() -> None:
    described = set(re.findall(r"^### Options of the engine (\w+)$", make_page(), re.MULTILINE))
    assert described == ENGINES.keys() - {"vllm"}


def test_page_lists_each_error_code() -> None:
    assert [code for code in SampleCode if f"| `{code}` |" not in make_page()] == []


def test_links_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", make_page(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", make_page())) <= anchors
