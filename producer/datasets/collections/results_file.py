"""Read the results of an earlier run as a dataset: ``results.parquet`` or ``results.jsonl`` of ``producer collect``.

Source: the columns of ``common.storage.parts.OUTCOME_SCHEMA``, and the columns of the question (``question``, ``options``,
``media``, …) if the file has them. The columns of the outcome (``prediction``, ``answer``, ``status``, …) and the metadata of the
row become metadata. ``fields: {question: prediction}`` makes the prediction the question. The columns ``attempts``, ``choices``,
``logprobs``, ``messages`` and ``turns`` are not read.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
from pydantic import ValidationError

from common.errors import ConfigError, SampleError, explain_unreadable
from common.records import Media
from common.spec.models import DatasetSource
from common.storage.files import open_file
from producer.datasets.collections.arrow_rows import to_plain
from producer.datasets.fields import misfit
from producer.datasets.media import Reference
from producer.datasets.readers.arrow_table import open_parquet
from producer.datasets.readers.jsonl import read_jsonl
from producer.datasets.registry import register_reader
from producer.datasets.rows import Row, find_fault

Kind = TypeVar("Kind", dict[str, Any], list[Any])

_ASKED = ("index", "question", "hint", "options", "kind", "group", "target")
_REQUIRED = ("sample_id", "status", "prediction")
_NOT_READ = ("attempts", "choices", "logprobs", "messages", "turns")
_BATCH_ROWS = 256
_PARQUET = b"PAR1"
_PACKER = msgspec.msgpack.Encoder()


@register_reader("results_file")
def read_results_file(source: DatasetSource) -> Iterator[Row]:
    """Yield a row for each row of the results, with any status."""
    with open_file(source.path) as stream:
        is_parquet = stream.read(len(_PARQUET)) == _PARQUET
    for row in _read_parquet(source) if is_parquet else read_jsonl(source):
        try:
            if row.fault is None:
                _shape_row(row, source)
        except SampleError as error:
            row.fault = find_fault(source, row.line, error)
        yield row


def _read_parquet(source: DatasetSource) -> Iterator[Row]:
    where = f"dataset {source.name!r}: path: {source.path}"
    try:
        with open_parquet(source.path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in _REQUIRED if name not in names]:
                found = f"no column {missing[0]!r} among {', '.join(names[:20])}"
                raise ConfigError(f"{where} has {found}; expected results.parquet of producer collect")
            read = [name for name in names if name not in _NOT_READ]
            number = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=read):
                batch.validate(full=True)  # pyarrow aborts the process at a damaged cell that it has not validated
                for values in batch.to_pylist():
                    fields = {name: to_plain(value, None, Counter()) for name, value in values.items()}
                    yield Row(number, f"row {number}", _PACKER.encode(fields), fields=fields)
                    number += 1
    except pa.ArrowException as error:
        found = " ".join(str(error).split())[:200]
        raise ConfigError(f"{where} is not a whole Parquet file ({found}); collect the run again") from None
    except OSError as error:
        raise explain_unreadable(error, f"{where} cannot be read ({error}); collect the run again") from None


def _shape_row(row: Row, source: DatasetSource) -> None:
    """Keep the columns of the question as fields, and move the other columns to the metadata. Raises ``SampleError``."""
    values = {name: value for name, value in row.fields.items() if name not in _NOT_READ}
    if missing := [name for name in _REQUIRED if name not in values]:
        raise SampleError("bad_row", f"no column {missing[0]!r}; expected a row of results.jsonl of producer collect")
    metadata = _read_json(values.pop("metadata", None), "metadata", dict)
    row.media = [_read_media(one) for one in _read_json(values.pop("media", None), "media", list)]
    values["options"] = _read_json(values.get("options"), "options", dict)
    values = metadata | {name: value for name, value in values.items() if value is not None}
    kept = {*_ASKED, *source.fields.values()}
    row.fields = {name: value for name, value in values.items() if name in kept}
    row.metadata = {name: value for name, value in values.items() if name not in kept}


def _read_json(value: Any, name: str, kind: type[Kind]) -> Kind:
    """Return a column that Parquet stores as JSON text. An absent value is empty."""
    if value is None:
        return kind()
    try:
        loaded = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        loaded = value
    if not isinstance(loaded, kind):
        raise SampleError("bad_field", f"field {name!r}: {misfit(value, 'JSON as producer collect writes it')}")
    return loaded


def _read_media(value: Any) -> Reference:
    try:
        media = Media.model_validate(value)
    except ValidationError:
        raise SampleError("bad_media", f"field 'media': {misfit(value, 'media as producer collect writes them')}") from None
    return Reference(media, f"{media.kind}@{media.digest}" if media.digest else f"{media.kind}:{media.uri or media.data}")
