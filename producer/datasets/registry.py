"""The registry of readers. The ``format`` of a source, else the ending of its path, determines its reader.

Other packages add formats through the entry-point group ``vlm_fleet.readers``. Each entry point names a module, or a function
in it, and the import of the module runs ``@register_reader(...)``. Entry points are imported only if no built-in format
matches.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

from common.errors import ConfigError, explain_unreadable
from common.records import Sample
from common.spec.models import DatasetSource
from common.spelling import suggest
from producer.datasets.rows import Row
from producer.datasets.samples import read_samples

Reader = Callable[[DatasetSource], Iterator[Row]]

ENTRY_POINT_GROUP = "vlm_fleet.readers"

_readers: dict[str, Reader] = {}
_formats_by_ending: dict[str, str] = {}


def register_reader(name: str, *, endings: tuple[str, ...] = ()) -> Callable[[Reader], Reader]:
    """Register the decorated function as the reader of format ``name`` and of files with one of ``endings``.

    A reader takes a source and yields its rows in file order, including invalid ones. ``read_samples`` applies the ``limit``
    and ``fields`` of the source. Raises ``ConfigError`` if the name or an ending is already registered.
    """

    def register(reader: Reader) -> Reader:
        if name in _readers:
            raise ConfigError(f"two readers are registered for the format {name!r}; expected one: choose another name")
        if taken := [ending for ending in endings if ending in _formats_by_ending]:
            owner = _formats_by_ending[taken[0]]
            raise ConfigError(f"reader {name!r}: files ending in {taken[0]} are already read as {owner!r}; omit that ending")
        _readers[name] = reader
        _formats_by_ending.update(dict.fromkeys(endings, name))
        return reader

    return register


def read_dataset(source: DatasetSource) -> Iterator[Sample]:
    """Yield one sample per row in file order, at most ``source.limit``, including duplicates and invalid rows.

    ``source`` must be resolved: ``path`` and ``media_root`` are absolute. Raises ``ConfigError`` immediately for an unknown
    format or a file that cannot be read, and during iteration for a header or field mapping that does not match the file.
    """
    reader = find_reader(source)
    try:
        Path(source.path).open("rb").close()
    except OSError as error:
        reason = error.strerror or error
        message = f"dataset {source.name!r}: path: {source.path} cannot be read ({reason}); expected a file"
        raise explain_unreadable(error, message) from None
    return read_samples(source, reader(source))


def find_reader(source: DatasetSource) -> Reader:
    """Return the reader for the format of a source. Raises ``ConfigError``, which lists the known formats, for other formats."""
    found = _look_up(source)
    if found is None:
        _import_entry_points()
        found = _look_up(source)
    if found is None:
        raise ConfigError(_explain_unknown(source))
    return found


def _look_up(source: DatasetSource) -> Reader | None:
    if source.format is not None:
        return _readers.get(source.format)
    lowered = source.path.lower()
    fitting = [ending for ending in _formats_by_ending if lowered.endswith(ending)]
    return _readers[_formats_by_ending[max(fitting, key=len)]] if fitting else None


def _import_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except Exception as error:  # another package's import may raise anything
            raise ConfigError(f"reader {point.name!r} ({point.value}) of another package does not load: {error!r}") from error


def _explain_unknown(source: DatasetSource) -> str:
    known = f"known formats: {', '.join(sorted(_readers))} (by ending: {', '.join(sorted(_formats_by_ending))})"
    if source.format is None:
        return f"dataset {source.name!r}: path: no reader for files like {source.path}; give its format: NAME; {known}"
    by_ending = _formats_by_ending.get(f".{source.format}")
    hint = f"; did you mean {by_ending!r}?" if by_ending else suggest(source.format, _readers)
    return f"dataset {source.name!r}: format: unknown format {source.format!r}{hint}; {known}"
