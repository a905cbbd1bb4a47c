"""Read Hugging Face datasets: a folder of ``save_to_disk``, or ``hf://ORGANIZATION/NAME`` on the hub.

Sources: https://huggingface.co/docs/datasets/process#save and ``arrow_dataset.py`` of the library. A folder of
``Dataset.save_to_disk`` has ``state.json``, which lists the Arrow streams, and ``dataset_info.json`` with the features. A folder
of ``DatasetDict.save_to_disk`` has ``dataset_dict.json`` and one such folder for each split. Saved folders are read without the
library.

A dataset on the hub is read with the library ``datasets`` (https://huggingface.co/docs/datasets/stream). It is read from the
library's cache if it is there, else as a stream. The media of a saved folder are byte ranges of its Arrow files. The media of a
dataset on the hub are copied into the plan, because workers do not read the cache of the producer. A saved folder may be in object
storage. Its Arrow files are copied to a temporary file one after another, because the search for the media maps the file.
"""

import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import Any

import pyarrow as pa

from common.errors import ConfigError, FleetError, SampleError, TransientError, explain_unreadable
from common.spec.dataset_files import HUB_SCHEME, SAVED_DATASET, SAVED_SPLITS, is_hub
from common.spec.models import DatasetSource
from common.storage.addresses import is_remote
from common.storage.files import is_file, open_file
from producer.datasets.collections.arrow_rows import ArrowFile, Feature, RowShape, fill_row
from producer.datasets.collections.folders import report_skipped
from producer.datasets.registry import register_reader
from producer.datasets.rows import Row, find_fault, plan_reading
from producer.datasets.values.arrow import Damage, convert_rows

_NAMED_PARTS = 3  # of a path: the folder of a split, and two folders above it
_COPY_BYTES = 8 * 2**20
_BATCH_ROWS = 16  # converted at once; rows may contain images
# https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_HTTP_CLIENTS = ("aiohttp", "httpcore", "httpx", "requests", "urllib3")
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = 500


@register_reader("huggingface", folders=True)
def read_huggingface(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of one split of a dataset."""
    return _read_hub(source) if is_hub(source.path) else _read_saved(source)


def _read_saved(source: DatasetSource) -> Iterator[Row]:
    folder = _find_split_folder(source)
    state = _load_json(source, f"{folder}/{SAVED_DATASET}")
    info = _load_json(source, f"{folder}/dataset_info.json")
    split = state.get("_split")
    if source.split and folder == source.path and split not in (None, source.split):
        raise ConfigError(f"dataset {source.name!r}: split: found {source.split!r}; {folder} contains the split {split!r}")
    files = [f"{folder}/{file.get('filename')}" for file in state.get("_data_files") or []]
    return _read_files(source, files, info.get("features") or {}, has_ranges=True)


def _find_split_folder(source: DatasetSource) -> str:
    folder = source.path
    if not is_file(f"{folder}/{SAVED_SPLITS}"):
        if is_file(f"{folder}/{SAVED_DATASET}"):
            return folder
        raise ConfigError(
            f"dataset {source.name!r}: path: {folder} has neither {SAVED_DATASET} nor {SAVED_SPLITS}; expected a folder of "
            "save_to_disk, or hf://ORGANIZATION/NAME"
        )
    split = choose_split(source, list(_load_json(source, f"{folder}/{SAVED_SPLITS}").get("splits") or []))
    return f"{folder}/{split}"


def choose_split(source: DatasetSource, splits: list[str]) -> str:
    """Return the split that the source names, or the only split. Raises ``ConfigError`` if the source must name another split."""
    if source.split in splits:
        return source.split
    if source.split is None and len(splits) == 1:
        return splits[0]
    found = "none" if source.split is None else repr(source.split)
    raise ConfigError(f"dataset {source.name!r}: split: found {found}; expected one of {', '.join(splits) or 'no splits'}")


def _load_json(source: DatasetSource, path: str) -> dict[str, Any]:
    try:
        with open_file(path) as stream:
            loaded = json.loads(stream.read())
    except OSError as error:
        message = f"dataset {source.name!r}: {path} cannot be read ({error.strerror}); expected a folder of save_to_disk"
        raise explain_unreadable(error, message) from None
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict):
        raise ConfigError(f"dataset {source.name!r}: {path} is not a JSON object; save the dataset again")
    return loaded


def _read_files(source: DatasetSource, files: list[str], features: dict[str, Feature], *, has_ranges: bool) -> Iterator[Row]:
    """Yield the rows of Arrow streams. A stream that cannot be read ends with one invalid row."""
    shape = RowShape(plan_reading(source), features)
    number = 0
    for path in files:
        try:
            for values, damage, file in _iterate_stream(path):
                yield _to_row(number, values, shape, file if has_ranges else None, damage)
                number += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and isinstance(explained := explain_unreadable(error, path), TransientError):
                raise explained from error
            place = f"{PurePosixPath(path).name}: row {number}"
            row = Row(number, place, _name_row(path, f"row {number}"))
            found = f"not a whole Arrow stream ({' '.join(str(error).split())[:200]}); its other rows are missing: restore the file"
            row.fault = find_fault(source, place, SampleError("bad_row", found))
            yield row
            number += 1
    report_skipped(source, shape.skipped, "no row uses the bytes in these columns: they are neither images nor videos")


@contextmanager
def _bring_here(path: str) -> Iterator[str]:
    """Yield the path of a file on this machine: the file itself, or a temporary copy of an object."""
    if not is_remote(path):
        yield path
        return
    with NamedTemporaryFile() as copy:
        with open_file(path) as stream:
            copyfileobj(stream, copy, _COPY_BYTES)
        copy.flush()
        yield copy.name


def _iterate_stream(path: str) -> Iterator[tuple[dict[str, Any], Damage | None, ArrowFile]]:
    with (
        _bring_here(path) as here,
        open_file(here) as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        file = ArrowFile(path, content)
        with pa.memory_map(here) as source, pa.ipc.open_stream(source) as batches:
            for batch in batches:
                batch.validate()
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    for values, damage in convert_rows(batch.slice(start, _BATCH_ROWS)):
                        yield values, damage, file
        if content[-len(_END_OF_STREAM) :] != _END_OF_STREAM:  # pyarrow accepts a stream that is cut off between two batches
            raise pa.ArrowInvalid("no end-of-stream mark")


def _to_row(
    number: int, values: dict[str, Any], shape: RowShape, file: ArrowFile | None = None, damage: Damage | None = None
) -> Row:
    place = f"row {number}"
    columns = [*values, *([damage.column] if damage else [])]
    row = Row(number, place, _name_row(shape.reading.source.path, place), columns=columns)
    if damage:
        row.fault = find_fault(shape.reading.source, place, damage.error, damage.column)
    fill_row(row, values, shape, file)
    return row


def _name_row(path: str, place: str) -> bytes:
    """Return a name that differs between the rows of all folders of a dataset, wherever the dataset is stored."""
    return f"{'/'.join(path.split('/')[-_NAMED_PARTS:])}: {place}".encode("utf-8", "surrogateescape")


def _read_hub(source: DatasetSource) -> Iterator[Row]:
    """Yield the rows of a dataset on the hub. Raises ``TransientError`` if the hub is unreachable."""
    try:
        import datasets
    except ImportError as error:
        message = (
            f"dataset {source.name!r}: {source.path} requires the library datasets ({error}); run pip install 'vlm-fleet[hub]'"
        )
        raise ConfigError(message) from None
    try:
        name = source.path.removeprefix(HUB_SCHEME)
        builder = datasets.load_dataset_builder(name, source.config, revision=source.revision)
        if builder.cache_dir and Path(builder.cache_dir, "dataset_info.json").is_file():
            found = builder.as_dataset()
            chosen = found[choose_split(source, list(found))]
            files = [str(file["filename"]) for file in chosen.cache_files]
            yield from _read_files(source, files, chosen.features.to_dict(), has_ranges=False)
            return
        streams = builder.as_streaming_dataset()
        yield from _read_stream(source, streams[choose_split(source, list(streams))], datasets)
    except (FleetError, GeneratorExit):
        raise
    except Exception as error:  # the library raises errors of its HTTP client and of the dataset's own reader
        raise _explain_hub(source, error) from error


def _read_stream(source: DatasetSource, stream: Any, datasets: ModuleType) -> Iterator[Row]:
    """Yield the rows of an ``IterableDataset``. Images and videos stay encoded."""
    features = stream.features.to_dict() if stream.features else {}
    if features:
        stream = stream.cast(datasets.Features.from_dict(_keep_encoded(features)))
    shape = RowShape(plan_reading(source), features)
    for number, values in enumerate(stream):
        yield _to_row(number, values, shape)
    report_skipped(source, shape.skipped, "no row uses the bytes in these columns: they are neither images nor videos")


def _keep_encoded(feature: Any) -> Any:
    if isinstance(feature, list):
        return [_keep_encoded(one) for one in feature]
    if not isinstance(feature, dict):
        return feature
    if feature.get("_type") in ("Audio", "Image", "Video"):
        return feature | {"decode": False}
    return {name: _keep_encoded(one) for name, one in feature.items()}


def _explain_hub(source: DatasetSource, error: Exception) -> FleetError:
    """Return ``TransientError`` if the hub is unreachable, else ``ConfigError``, because the source is wrong."""
    where = f"dataset {source.name!r}: path: {source.path}"
    found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if any(map(_is_network_error, _list_causes(error))):
        return TransientError(
            f"{where}: the Hugging Face hub is unreachable ({found}); try again, or download the dataset on a machine with a "
            "network, save it with save_to_disk, and give that folder as path"
        )
    return ConfigError(
        f"{where}: it cannot be read ({found}); check the name, config, split and revision; a gated dataset needs HF_TOKEN"
    )


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _is_network_error(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status == _TOO_MANY_REQUESTS or status >= _SERVER_ERRORS
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.partition(".")[0] in _HTTP_CLIENTS
