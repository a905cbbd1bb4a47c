"""Find the files of a dataset, and compute the digest of their content.

A path is a file, a folder or a glob, and a dataset may list several paths. Several files are one dataset, in the order of their
paths. A folder stands for its data files, which must have one ending. A folder is read as a whole if it has no data files or if
its format is not a table format. Its digest then covers the names of all files, and the content of the files that are not media.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from common.digests import digest_file, digest_record
from common.errors import ConfigError, explain_unreadable
from common.spec.dataset_files import digest_folder, find_folder_format, find_matches, has_media_ending, is_hub, names_any_file
from common.spec.models import COMPRESSED_ENDINGS, GLOB_CHARACTERS, DatasetSource

TABLE_FORMATS = frozenset({"arrow", "csv", "csv_semicolon", "json", "jsonl", "parquet", "tsv", "vlmeval_tsv"})
_DATA_ENDINGS = frozenset({".arrow", ".csv", ".feather", ".ipc", ".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".tab", ".tsv"})


def resolve_dataset(source: DatasetSource, spec_path: Path, number: int) -> DatasetSource:
    """Make the paths absolute and add the digest of the files.

    A relative path starts at the spec's folder. If the path does not exist there, it starts at the current folder.
    """
    where = f"{spec_path}: datasets.{number}."
    found = find_files(source, spec_path.parent, where)
    if is_hub(source.path):
        return found.model_copy(update={"digest": digest_record(source.path)})
    digests = [_digest_path(Path(path), f"{where}path") for path in found.all_files]
    if found.annotations:
        digests.append(_digest_path(Path(found.annotations), f"{where}annotations"))
    return found.model_copy(update={"digest": digests[0] if len(digests) == 1 else digest_record(digests)})


def find_files(source: DatasetSource, spec_folder: Path, where: str) -> DatasetSource:
    """Make the paths of a source absolute. In error messages, ``where`` is the text before the name of a field."""
    if "\0" in "".join((source.path, *source.files, source.media_root or "", source.annotations or "")):
        names = "annotations" if "\0" in (source.annotations or "") else "path or media_root"
        raise ConfigError(f"{where.rstrip('.')}: found a NUL character in {names}; remove it")
    if is_hub(source.path):
        return source.model_copy(update={"media_root": str((spec_folder / (source.media_root or "")).resolve())})
    found = {path for text in source.all_files for path in _find_paths(text, spec_folder, source.format, f"{where}path")}
    paths = sorted(found, key=lambda path: path.parts)
    annotations = _find_annotations(source, spec_folder, f"{where}annotations")
    folders = [str(path if path.is_dir() else path.parent) for path in paths]
    folder = os.path.commonpath(folders)
    root = str((Path(folder) / source.media_root).resolve()) if source.media_root else folder
    return source.model_copy(
        update={
            "path": str(paths[0]) if len(paths) == 1 else folder,
            "files": tuple(map(str, paths)) if len(paths) > 1 else (),
            # Without media_root, the relative paths in each file start at the folder of that file.
            "media_root": root if source.media_root or len(set(folders)) == 1 else None,
            "annotations": str(annotations) if annotations else None,
        }
    )


def _find_annotations(source: DatasetSource, spec_folder: Path, where: str) -> Path | None:
    return _find_paths(source.annotations, spec_folder, source.format, where)[0] if source.annotations else None


def strip_compression(name: str) -> str:
    """Return the name of a file in lower case, without the ending of its compression."""
    lowered = name.lower()
    ending = next((ending for ending in COMPRESSED_ENDINGS if lowered.endswith(ending)), "")
    return lowered.removesuffix(ending)


def _find_paths(text: str, spec_folder: Path, format_name: str | None, where: str) -> list[Path]:
    """Return the files of one path of the spec, or the folder itself if it is read as a whole."""
    candidates = list(dict.fromkeys(path.resolve() for path in (spec_folder / text, Path(text))))
    for candidate in candidates:
        if os.path.isfile(candidate):  # noqa: PTH113  Path.is_file raises for a name that is too long
            return [candidate]
    if GLOB_CHARACTERS.intersection(text):
        return _find_matches(text, candidates, where)
    for candidate in filter(os.path.isdir, candidates):
        if found := _list_folder(candidate, format_name, where):
            return found
    is_folder = any(map(os.path.isdir, candidates))
    shown = repr(text) if len(text) <= 78 else repr(text)[:77] + "..."
    looked = ", ".join(map(str, candidates)) + ("; it is an empty folder" if is_folder else "")
    raise ConfigError(f"{where}: no file {shown}; looked at {looked}; expected a dataset's file")


def _find_matches(text: str, candidates: Iterable[Path], where: str) -> list[Path]:
    missing: list[str] = []
    for pattern in candidates:
        try:
            return [Path(path) for path in find_matches(str(pattern))]
        except FileNotFoundError as error:
            missing.append(str(error.filename))
            if names_any_file(str(pattern)):
                raise ConfigError(
                    f"{where}: no file matches {text!r}; looked at {error.filename}; expected this file too, because other files "
                    "that the braces name exist"
                ) from None
    raise ConfigError(f"{where}: no file matches {text!r}; looked at {', '.join(missing)}; expected at least one file")


def _list_folder(folder: Path, format_name: str | None, where: str) -> list[Path]:
    """Return the data files in a folder, or the folder itself if it is read as a whole. An empty folder gives an empty list."""
    try:
        names = [path for path in folder.iterdir() if not path.name.startswith((".", "_"))]
    except OSError as error:
        raise explain_unreadable(error, f"{where}: {folder} cannot be read: {error.strerror}; check its permissions") from error
    files = [path for path in _select_tables(folder, names) if path.is_file()]
    if not names or not files or not (format_name is None or format_name in TABLE_FORMATS):
        return [folder] if names else []
    endings = sorted({Path(strip_compression(path.name)).suffix for path in files})
    if len(endings) > 1:
        raise ConfigError(
            f"{where}: {folder} holds files of several kinds ({', '.join(endings)}); expected files of one kind: "
            f"select them with a glob, for example {folder.name}/*{endings[0]}"
        )
    return files


def _select_tables(folder: Path, names: list[Path]) -> list[Path]:
    """Return the data files in a folder, without files that describe its images and videos or belong to a saved dataset."""
    found = [path for path in names if Path(strip_compression(path.name)).suffix in _DATA_ENDINGS]
    if not found or (kind := find_folder_format(str(folder))) is None:
        return found
    if kind == "huggingface":
        return []
    described = {path.stem for path in names if has_media_ending(path.name)}
    return [path for path in found if path.stem != "metadata" and not (path.suffix == ".json" and path.stem in described)]


def _digest_path(path: Path, where: str) -> str:
    try:
        if not path.is_dir():
            return digest_file(path)
        return digest_folder(str(path))
    except OSError as error:
        raise explain_unreadable(error, f"{where}: {path} cannot be read: {error.strerror}; check its permissions") from error
