"""The screen of ``producer inspect`` at several widths."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from producer.console.inspection import format_bytes, print_inspection
from producer.planning.inspection import find_source, inspect_dataset
from tests.support.fleet import ROOT

INPUTS = ROOT / "tests" / "support" / "inputs"


def show(path: Path, width: int = 80, *, rows: int = 3) -> str:
    """Return the screen for a dataset, without the spaces at the ends of lines."""
    shown = io.StringIO()
    print_inspection(inspect_dataset(find_source([str(path)], None, []), most_rows=rows), Console(file=shown, width=width))
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_row_is_shown_with_media_and_messages() -> None:
    shown = show(INPUTS / "llava.jsonl", 140)
    assert f"  media     1. image 24×24 {INPUTS}/red.png\n  user      [image 1]What colour is it?\n" in shown
    assert "rows 2, unique 2, duplicates 0, faulty rows: none" in shown


def test_unused_columns_are_marked_and_explained(tmp_path: Path) -> None:
    shown = show(write(tmp_path, {"question": "a?", "label": "x", "note": 1}))
    assert " label       1 metadata; looks like target\n note        1 metadata\n" in shown
    assert "  column label (1 row, looks like target): use it with fields: {target: label}, or leave it out with" in shown


def test_needed_options_are_explained() -> None:
    shown = show(INPUTS / "other_keys.jsonl")
    assert "  fields: {image: img}: only this column contains media\n" in shown
    assert shown.endswith("  name: other_keys\n  fields:\n    image: img")


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize("name", ["llava.jsonl", "markers.jsonl", "options.tsv"])
def test_spec_lines_are_yaml_at_every_width(name: str, width: int) -> None:
    lines = show(INPUTS / name, width).partition("Paste into a spec:\n")[2]
    assert yaml.safe_load(lines)["datasets"][0]["path"] == str(INPUTS / name)


def test_content_of_a_dataset_cannot_control_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "\x1b[31mred [bold]x[/bold] :smile:", "\x1b[2Jcolumn": 1, "id": "\r\x07"})
    shown = show(path)
    assert "\x1b" not in shown
    assert "  question  \\x1b[31mred [bold]x[/bold] :smile:\n" in shown
    assert " \\x1b[2Jcolumn" in shown


def test_long_texts_are_cut_with_their_length(tmp_path: Path) -> None:
    options = [f"{number} " * 900 for number in range(3)]
    shown = show(write(tmp_path, {"question": "why? " * 10_000, "options": options, "answer": ["A"] * 40}), 140)
    assert "… (50,000 characters)" in shown
    assert len(shown) < 6_000


def test_secrets_in_addresses_are_masked(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "a?", "image": "https://user:pass-word@host/a.png?X-Signature=abcdef"})
    shown = show(path, 140)
    assert "https://***@host/a.png?*** (a URL, which is not fetched)" in shown


def test_many_columns_and_files_are_shortened(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"part-{number}.jsonl").write_text(json.dumps({"question": "a?", **{f"c{n}": n for n in range(90)}}) + "\n")
    shown = show(tmp_path)
    assert "… and 6 more files" in shown
    assert "… and 51 more columns" in shown


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (5 * 10**9, "5.0 GB"), (10**13, "10,000.0 GB")],
)
def test_sizes_have_units(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text
