"""The registry of readers. The ``format`` of a source determines its reader, else the ending of its files, else their content.

Other packages add formats through the entry-point group ``vlm_fleet.readers``. Each entry point names a module, or a function
in it, and the import of the module runs ``@register_reader(...)``. Entry points are imported only if no built-in format
matches.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points

from common.errors import ConfigError, explain_unreadable
from common.records import Sample
from common.spec.dataset_files import find_folder_format, is_hub
from common.spec.dataset_paths import strip_compression
from common.spec.models import DatasetSource
from common.spelling import suggest
from common.storage.files import is_folder, list_folder, open_file
from producer.datasets.formats import refine_format
from producer.datasets.samples import read_samples
from producer.datasets.sources import Reader, read_files, split_source

ENTRY_POINT_GROUP = "vlm_fleet.readers"

_readers: dict[str, Reader] = {}
_formats_by_ending: dict[str, str] = {}
_folder_formats: set[str] = set()


def register_reader(name: str, *, endings: tuple[str, ...] = (), folders: bool = False) -> Callable[[Reader], Reader]:
    """Register the decorated function as the reader of format ``name`` and of files with one of ``endings``.

    ``folders`` states whether the path may be a folder (``dataset_files.find_folder_format``). A reader takes a source and yields
    its rows in file order, including invalid rows. ``read_samples`` applies the ``limit`` and ``fields`` of the source. Raises
    ``ConfigError`` if the name or an ending is already registered.
    """

    def register(reader: Reader) -> Reader:
        if name in _readers:
            raise ConfigError(f"two readers are registered for the format {name!r}; expected one: choose another name")
        if taken := [ending for ending in endings if ending in _formats_by_ending]:
            owner = _formats_by_ending[taken[0]]
            raise ConfigError(f"reader {name!r}: files ending in {taken[0]} are already read as {owner!r}; omit that ending")
        _readers[name] = reader
        _formats_by_ending.update(dict.fromkeys(endings, name))
        if folders:
            _folder_formats.add(name)
        return reader

    return register


def read_dataset(source: DatasetSource) -> Iterator[Sample]:
    """Yield one sample per row in file order, at most ``source.limit``, including duplicates and invalid rows.

    ``source`` must be resolved: ``path`` and ``media_root`` are absolute. Raises ``ConfigError`` immediately for an unknown
    format or a file that cannot be read, and during iteration for a header or field mapping that does not match the file.
    """
    check_readable(source)
    return read_samples(source, find_reader(source)(source))


def check_readable(source: DatasetSource) -> None:
    """Raise ``ConfigError`` for a file or folder of the source that cannot be opened."""
    for path in source.all_files:
        try:
            _open_once(path)
        except OSError as error:
            raise explain_unreadable(error, _explain_unreadable(source, path, error.strerror or str(error))) from None


def _open_once(path: str) -> None:
    """Open a file or a folder. A dataset on the hub is checked by its own reader. Raises ``OSError``."""
    if is_hub(path):
        return
    if is_folder(path):
        list_folder(path)
    else:
        open_file(path).close()


def _explain_unreadable(source: DatasetSource, path: str, reason: str) -> str:
    return f"dataset {source.name!r}: path: {path} cannot be read ({reason}); expected a file"


def find_reader(source: DatasetSource) -> Reader:
    """Return the reader for the files of a source. It yields the rows of all files.

    Raises ``ConfigError`` if the format is unknown (the message lists the known formats), or if the files have different formats.
    """
    names: dict[str, str] = {}
    for one in split_source(source):
        names.setdefault(find_format(one), one.path)
    if len(names) > 1:
        (first, path), (second, other) = list(names.items())[:2]
        raise ConfigError(
            f"dataset {source.name!r}: path: {path} is {first} and {other} is {second}; expected files of one format: "
            "make a dataset for each format"
        )
    (name,) = names
    return partial(read_files, _readers[name]) if source.files else _readers[name]


def find_format(source: DatasetSource) -> str:
    """Return the format of one file. Raises ``ConfigError`` if it is unknown; the message lists the known formats."""
    found = _look_up(source)
    if found is None:
        _import_entry_points()
        found = _look_up(source)
    if source.format is None:
        found = refine_format(source, found)
    if found is None or found not in _readers:
        raise ConfigError(_explain_unknown(source))
    if found not in _folder_formats and is_folder(source.path):
        raise ConfigError(_explain_unreadable(source, source.path, f"it is a folder, and {found} is a format of files"))
    return found


def _look_up(source: DatasetSource) -> str | None:
    if source.format is not None:
        return source.format if source.format in _readers else None
    if named := find_folder_format(source.path):
        return named
    name = strip_compression(source.path)
    fitting = [ending for ending in _formats_by_ending if name.endswith(ending)]
    return _formats_by_ending[max(fitting, key=len)] if fitting else None


def _import_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except Exception as error:  # another package's import may raise anything
            raise ConfigError(f"reader {point.name!r} ({point.value}) of another package does not load: {error!r}") from error


def _explain_unknown(source: DatasetSource) -> str:
    known = f"known formats: {', '.join(sorted(_readers))} (by ending: {', '.join(sorted(_formats_by_ending))})"
    if source.format is None and is_folder(source.path):
        return (
            f"dataset {source.name!r}: path: {source.path} is a folder without images, videos or a saved Hugging Face dataset; "
            "expected a dataset's file, or the folder's format: NAME"
        )
    if source.format is None:
        return f"dataset {source.name!r}: path: no reader for files like {source.path}; give its format: NAME; {known}"
    by_ending = _formats_by_ending.get(f".{source.format}")
    hint = f"; did you mean {by_ending!r}?" if by_ending else suggest(source.format, _readers)
    return f"dataset {source.name!r}: format: unknown format {source.format!r}{hint}; {known}"
