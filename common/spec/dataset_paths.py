"""Find the files of a dataset, and compute the digest of their content.

A path is a file, a folder or a glob, and a dataset may list several paths. Several files are one dataset, in the order of their
paths. A folder stands for its data files, which must have one ending. A folder is read as a whole if it has no data files or if
its format is not a table format. Its digest then covers the names of all files, and the content of the files that are not media.
"""

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from common.digests import digest_record
from common.errors import ConfigError, explain_unreadable
from common.spec.dataset_files import digest_folder, find_folder_format, find_matches, has_media_ending, is_hub, names_any_file
from common.spec.models import COMPRESSED_ENDINGS, GLOB_CHARACTERS, DatasetSource
from common.storage.addresses import is_remote, normalize_address, resolve_path, split_address
from common.storage.files import digest_content, is_file, is_folder, list_folder
from common.storage.remote_files import forget_states

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
    digests = [_digest_path(path, f"{where}path") for path in found.all_files]
    if found.annotations:
        digests.append(_digest_path(found.annotations, f"{where}annotations"))
    return found.model_copy(update={"digest": digests[0] if len(digests) == 1 else digest_record(digests)})


def find_files(source: DatasetSource, spec_folder: Path, where: str) -> DatasetSource:
    """Make the paths of a source absolute. In error messages, ``where`` is the text before the name of a field."""
    if "\0" in "".join((source.path, *source.files, source.media_root or "", source.annotations or "")):
        names = "annotations" if "\0" in (source.annotations or "") else "path or media_root"
        raise ConfigError(f"{where.rstrip('.')}: found a NUL character in {names}; remove it")
    if is_hub(source.path):
        return source.model_copy(update={"media_root": resolve_path(spec_folder, source.media_root or "")})
    forget_states()
    found = {path for text in source.all_files for path in _find_paths(text, spec_folder, source.format, f"{where}path")}
    paths = sorted(found, key=lambda path: path.split("/"))
    annotations = _find_annotations(source, spec_folder, f"{where}annotations")
    folders = [path if is_folder(path) else posixpath.dirname(path) for path in paths]
    folder = _find_common_folder(folders, f"{where}path")
    root = resolve_path(folder, source.media_root) if source.media_root else folder
    # Workers recognise the address of a folder by its last character, without a request.
    files = tuple(f"{path}/" if is_remote(path) and path in folders else path for path in paths)
    return source.model_copy(
        update={
            "path": paths[0] if len(paths) == 1 else folder,
            "files": files if len(paths) > 1 or (files[0] != paths[0] and root != folder) else (),
            # Without media_root, the relative paths in each file start at the folder of that file.
            "media_root": root if source.media_root or len(set(folders)) == 1 else None,
            "annotations": annotations,
        }
    )


def _find_common_folder(folders: list[str], where: str) -> str:
    remote = {split_address(folder).bucket if is_remote(folder) else None for folder in folders}
    if remote == {None}:
        return os.path.commonpath(folders)
    if len(remote) > 1:
        places = ", ".join(sorted(bucket or "this machine" for bucket in remote))
        raise ConfigError(f"{where}: the files are in several places ({places}); expected one: make a dataset for each place")
    found = [split_address(folder) for folder in folders]
    return normalize_address(f"{found[0].bucket}{posixpath.commonpath([f'/{one.key}' for one in found])}")


def _find_annotations(source: DatasetSource, spec_folder: Path, where: str) -> str | None:
    return _find_paths(source.annotations, spec_folder, source.format, where)[0] if source.annotations else None


def strip_compression(name: str) -> str:
    """Return the name of a file in lower case, without the ending of its compression."""
    lowered = name.lower()
    ending = next((ending for ending in COMPRESSED_ENDINGS if lowered.endswith(ending)), "")
    return lowered.removesuffix(ending)


def _find_paths(text: str, spec_folder: Path, format_name: str | None, where: str) -> list[str]:
    """Return the files of one path of the spec, or the folder itself if it is read as a whole."""
    candidates = list(dict.fromkeys(resolve_path(folder, text) for folder in (spec_folder, Path.cwd())))
    try:
        for candidate in candidates:
            if is_file(candidate):
                return [candidate]
        if GLOB_CHARACTERS.intersection(text):
            return _find_matches(text, candidates, where)
        for candidate in filter(is_folder, candidates):
            if found := _list_tables(candidate, format_name, where):
                return found
        is_empty = any(map(is_folder, candidates))
    except OSError as error:
        message = f"{where}: {error.filename} cannot be read: {error.strerror}; check its permissions"
        raise explain_unreadable(error, message) from error
    shown = repr(text) if len(text) <= 78 else repr(text)[:77] + "..."
    looked = ", ".join(candidates) + ("; it is an empty folder" if is_empty else "")
    raise ConfigError(f"{where}: no file {shown}; looked at {looked}; expected a dataset's file")


def _find_matches(text: str, candidates: Iterable[str], where: str) -> list[str]:
    missing: list[str] = []
    for pattern in candidates:
        try:
            return find_matches(pattern)
        except FileNotFoundError as error:
            missing.append(str(error.filename))
            if names_any_file(pattern):
                raise ConfigError(
                    f"{where}: no file matches {text!r}; looked at {error.filename}; expected this file too, because other files "
                    "that the braces name exist"
                ) from None
    raise ConfigError(f"{where}: no file matches {text!r}; looked at {', '.join(missing)}; expected at least one file")


def _list_tables(folder: str, format_name: str | None, where: str) -> list[str]:
    """Return the data files in a folder, or the folder itself if it is read as a whole. An empty folder gives an empty list."""
    names = [name for name in list_folder(folder) if not name.startswith((".", "_"))]
    files = [path for name in _select_tables(folder, names) if is_file(path := f"{folder.rstrip('/')}/{name}")]
    if not names or not files or not (format_name is None or format_name in TABLE_FORMATS):
        return [folder] if names else []
    endings = sorted({PurePosixPath(strip_compression(path)).suffix for path in files})
    if len(endings) > 1:
        raise ConfigError(
            f"{where}: {folder} holds files of several kinds ({', '.join(endings)}); expected files of one kind: "
            f"select them with a glob, for example {PurePosixPath(folder).name}/*{endings[0]}"
        )
    return files


def _select_tables(folder: str, names: list[str]) -> list[str]:
    """Return the data files in a folder, without files that describe its images and videos or belong to a saved dataset."""
    found = [name for name in names if PurePosixPath(strip_compression(name)).suffix in _DATA_ENDINGS]
    if not found or (kind := find_folder_format(folder)) is None:
        return found
    if kind == "huggingface":
        return []
    described = {PurePosixPath(name).stem for name in names if has_media_ending(name)}
    return [name for name in found if not _describes_media(PurePosixPath(name), described)]


def _describes_media(file: PurePosixPath, described: set[str]) -> bool:
    return file.stem == "metadata" or (file.suffix == ".json" and file.stem in described)


def _digest_path(path: str, where: str) -> str:
    try:
        return digest_folder(path) if is_folder(path) else digest_content(path)
    except OSError as error:
        raise explain_unreadable(error, f"{where}: {path} cannot be read: {error.strerror}; check its permissions") from error
