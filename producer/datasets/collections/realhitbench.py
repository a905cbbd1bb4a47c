"""Read RealHiTBench: questions about tables. The dataset contains each table as HTML, Markdown, LaTeX, CSV and an image.

Source: https://github.com/cspzyy/RealHiTBench (``data/QA_final.json`` and ``inference/inference_mix.py``) and
https://huggingface.co/datasets/spzy/RealHiTBench. The path is ``QA_final.json``, which has a list ``queries``. The table of a query
is ``<format>/<FileName>.<ending>`` in the folder of the file, or in ``media_root``.

``table: {format: html}`` chooses the form of the tables. The text of the table precedes the question. ``format: image`` shows the
image in place of the text, and ``image: true`` shows both, as the benchmark's ``mix`` does. The target is ``FinalAnswer``.
"""

import json
from collections.abc import Iterator

from common.errors import ConfigError, SampleError
from common.records import Media
from common.spec.models import DatasetSource, TableFormat, TableOption
from common.storage.files import is_file
from producer.datasets.collections.json_items import iterate_items
from producer.datasets.collections.sidecars import decode_text, read_below
from producer.datasets.fields import misfit
from producer.datasets.media import Reference
from producer.datasets.readers.jsonl import fill_row
from producer.datasets.registry import register_reader
from producer.datasets.rows import Row, find_fault, plan_reading

# The folders and endings of each format, in order of preference.
_PLACES: dict[TableFormat, tuple[str, ...]] = {
    TableFormat.HTML: ("html/{}.html", "html/{}.htm"),
    TableFormat.MARKDOWN: ("markdown/{}.md", "markdown/{}.txt"),
    TableFormat.LATEX: ("latex/{}.txt", "latex/{}.tex"),
    TableFormat.CSV: ("csv/{}.csv",),
    TableFormat.IMAGE: ("image/{}.png", "images/{}.png", "image/{}.jpg"),
}


@register_reader("realhitbench")
def read_realhitbench(source: DatasetSource) -> Iterator[Row]:
    """Yield a row for each query."""
    if source.table is None:
        raise ConfigError(
            f"dataset {source.name!r}: table: missing; expected table: {{format: FORMAT}} with one of {', '.join(TableFormat)}"
        )
    folder = plan_reading(source).root
    for number, item in enumerate(iterate_items(source, source.path, "queries.item")):
        row = Row(number, f"queries[{number}]", json.dumps(item).encode())
        try:
            fill_row(row, source)
            _shape_row(row, folder, source, source.table)
        except SampleError as error:
            row.fault = row.fault or find_fault(source, row.line, error)
        yield row


def _shape_row(row: Row, folder: str, source: DatasetSource, table: TableOption) -> None:
    """Set the question with its table, the target and the image. Raises ``SampleError``."""
    fields = dict(row.fields)
    question = fields.pop("Question", None)
    row.fields = fields | {"question": question, "target": fields.pop("FinalAnswer", None)}
    name = fields.get("FileName")
    if not isinstance(name, str) or not name.strip() or "/" in name or "\\" in name:
        raise SampleError("bad_field", f"field 'FileName': {misfit(name, 'the name of a table without folder and ending')}")
    if table.image or table.format is TableFormat.IMAGE:
        place = _find_table(folder, TableFormat.IMAGE, name)
        row.media = [Reference(Media(uri=f"{folder}/{place}"), f"image:{place}")]
    if table.format is not TableFormat.IMAGE:
        place = _find_table(folder, table.format, name)
        text = decode_text(read_below(f"{folder}/{place}", source), place).strip()
        if not text:
            raise SampleError("bad_field", f"{place}: it is empty; expected a table")
        if isinstance(question, str) and question.strip():
            row.fields = row.fields | {"question": f"{text}\n\n{question}", "table_question": question}
        row.fields = row.fields | {"table": place}


def _find_table(folder: str, table_format: TableFormat, name: str) -> str:
    """Return the path of a table, relative to the folder."""
    places = [place.format(name) for place in _PLACES[table_format]]
    return next((place for place in places if is_file(f"{folder}/{place}")), places[0])
