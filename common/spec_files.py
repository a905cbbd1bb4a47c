"""Read run specs and model profiles from YAML.  A mistake names file, field, what was found and what was expected."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from common.errors import ConfigError
from common.identity import digest_file
from common.settings import get_settings
from common.spec import DatasetSource, Generation, ModelProfile, RunFile, RunSpec, Validation
from common.spelling import suggest

Model = TypeVar("Model", bound=BaseModel)

BUILT_IN_PROFILES = Path(__file__).resolve().parent.parent / "workers" / "profiles"


def read_specs(path: Path, changes: tuple[str, ...] = ()) -> list[RunSpec]:
    """Return one resolved ``RunSpec`` for each model that the file names.

    ``changes`` are ``field.path=value`` texts, applied before the file is checked.  Raises ``ConfigError``.
    """
    raw = load_yaml(path)
    for change in changes:
        apply_change(raw, change)
    asked = check(RunFile, raw, str(path))
    datasets = tuple(_resolve_dataset(source, path, number) for number, source in enumerate(asked.datasets))
    names = asked.models or (asked.model or "",)
    return [_resolve_run(asked, read_profile(name, beside=path.parent), datasets, str(path)) for name in names]


def read_profile(name: str, *, beside: Path | None = None) -> ModelProfile:
    """Return the model profile called ``name``, or the one in the file ``name`` if it ends in ``.yaml``.

    Names are looked up in ``FLEET_PROFILES_DIR`` first, then among the built-in profiles.
    """
    path = find_profile(name, beside=beside)
    return check(ModelProfile, load_yaml(path), str(path))


def find_profile(name: str, *, beside: Path | None = None) -> Path:
    """Return the file of a profile.  Raises ``ConfigError`` with the nearest known name."""
    if name.endswith((".yaml", ".yml")):
        candidates = [folder / name for folder in (beside, Path.cwd()) if folder is not None]
    else:
        candidates = [folder / f"{name}.yaml" for folder in _profile_folders()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted({path.stem for folder in _profile_folders() for path in folder.glob("*.yaml")})
    raise ConfigError(
        f"model profile {name!r} not found{suggest(name, known)}\n"
        f"  looked at: {', '.join(map(str, candidates))}\n  known profiles: {', '.join(known)}"
    )


def find_weights(profile: ModelProfile, *, profile_path: Path) -> str:
    """Return the weights' folder for a path (relative ones start at the profile's file) or the hub id as it stands."""
    weights = profile.weights or profile.name
    if not weights.startswith((".", "/")):
        return weights
    folder = (profile_path.parent / weights).resolve()
    if not folder.is_dir():
        raise ConfigError(f"{profile_path}: weights: {folder} is not a folder; expected the folder of a saved model")
    return str(folder)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping.  Raises ``ConfigError`` when it cannot be read or is something else."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of fields at the top, found {type(raw).__name__}")
    return raw


def apply_change(raw: dict[str, Any], change: str) -> None:
    """Set one field in place: ``generation.max_tokens=64``; a number steps into a list: ``datasets.0.limit=50``."""
    field, equals, text = change.partition("=")
    if not equals or not field:
        raise ConfigError(f"--set {change!r}: expected FIELD=VALUE, for example generation.max_tokens=64")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: the value is not valid YAML: {error}") from error
    *steps, last = field.split(".")
    target: Any = raw
    for step in steps:
        target = target[_list_index(target, step, change)] if isinstance(target, list) else target.setdefault(step, {})
        if not isinstance(target, dict | list):
            raise ConfigError(f"--set {change!r}: {step!r} is a plain value and has no fields")
    target[_list_index(target, last, change) if isinstance(target, list) else last] = value


def check(model: type[Model], raw: dict[str, Any], where: str) -> Model:
    """Return ``raw`` as a ``model``, or raise a ``ConfigError`` with one line for each mistake."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(mistake, model, where) for mistake in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(mistake: Any, model: type[BaseModel], where: str) -> str:
    *parents, last = mistake["loc"] or ("",)
    field = ".".join(map(str, mistake["loc"])) or "the file"
    found = repr(mistake["input"])
    found = found if len(found) <= 80 else found[:77] + "..."
    if mistake["type"] == "extra_forbidden":
        known = _fields_at(model, parents)
        return f"{where}: {field}: unknown field (found {found}){suggest(str(last), known)}; known fields: {', '.join(known)}"
    if mistake["type"] == "missing":
        return f"{where}: {field}: missing; expected a value"
    if mistake["type"] == "value_error":
        return f"{where}: {field}: {mistake['ctx']['error']}" if mistake["loc"] else f"{where}: {mistake['ctx']['error']}"
    return f"{where}: {field}: found {found}; expected: {mistake['msg'].removeprefix('Input should be ')}"


def _fields_at(model: type[BaseModel], parents: list[Any]) -> list[str]:
    """Follow field names down from ``model`` and return the names that are known there."""
    current: Any = model
    for parent in parents:
        if isinstance(parent, int):
            continue
        annotation = current.model_fields[parent].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return sorted(current.model_fields)


def _profile_folders() -> list[Path]:
    own = get_settings().profiles_dir
    return [*([own] if own else []), BUILT_IN_PROFILES]


def _list_index(target: list[Any], step: str, change: str) -> int:
    if not step.isdigit() or int(step) >= len(target):
        raise ConfigError(f"--set {change!r}: {step!r} is not an index into a list of {len(target)}")
    return int(step)


def _resolve_dataset(source: DatasetSource, spec_path: Path, number: int) -> DatasetSource:
    """Make the path absolute (relative ones start at the spec's folder, then at the current one) and take the digest."""
    candidates = [path.resolve() for path in (spec_path.parent / source.path, Path(source.path))]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        looked = ", ".join(dict.fromkeys(map(str, candidates)))
        raise ConfigError(f"{spec_path}: datasets.{number}.path: no file {source.path!r}; looked at {looked}")
    root = (path.parent / source.media_root).resolve() if source.media_root else path.parent
    return source.model_copy(update={"path": str(path), "media_root": str(root), "digest": digest_file(path)})


def _resolve_run(asked: RunFile, profile: ModelProfile, datasets: tuple[DatasetSource, ...], where: str) -> RunSpec:
    return RunSpec(
        model=profile,
        datasets=datasets,
        generation=check(Generation, {**profile.generation, **asked.generation}, f"{where}: generation"),
        validation=check(Validation, {**profile.validation, **asked.validation}, f"{where}: validation"),
        shuffle=asked.shuffle,
        chunks=asked.chunks,
    )
