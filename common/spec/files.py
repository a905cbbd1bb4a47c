"""Read run specs and model profiles from YAML. Errors name the file, the field, the found value and the expected value."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from common.answers.validators import check_validators
from common.errors import ConfigError, explain_unreadable
from common.redaction import find_secrets, mask_record
from common.settings import get_settings
from common.spec.dataset_paths import resolve_dataset
from common.spec.models import DatasetSource, ModelProfile, RunFile, RunSpec, SamplingParams, Validation
from common.spec.prompts import PromptSpec, resolve_prompt
from common.spec.strict_yaml import MOST_CHARACTERS, parse_yaml
from common.spelling import suggest

Model = TypeVar("Model", bound=BaseModel)

# These fields are set when a spec is resolved. Users do not write them, so messages do not suggest them.
_RESOLVED = frozenset({"digest", "digests", "files", "found_kind", "media_digest", "asks_turns"})

BUILT_IN_PROFILES = Path(__file__).resolve().parents[2] / "workers" / "profiles"


def read_specs(path: Path, changes: tuple[str, ...] = ()) -> list[RunSpec]:
    """Return one resolved ``RunSpec`` for each model that the file names.

    ``changes`` are texts of the form ``field.path=value``. They are applied before validation. Raises ``ConfigError``.
    """
    raw = load_yaml(path)
    for change in changes:
        apply_change(raw, change)
    asked = check(RunFile, raw, str(path))
    datasets = tuple(resolve_dataset(source, path, number) for number, source in enumerate(asked.datasets))
    names = asked.models or (asked.model or "",)
    return [_resolve_run(asked, name, datasets, path) for name in names]


def read_profile(name: str, *, beside: Path | None = None) -> ModelProfile:
    """Return the model profile ``name``, or the profile in the file ``name`` if it ends in ``.yaml``.

    ``FLEET_PROFILES_DIR`` is searched first, then the built-in profiles.
    """
    path = find_profile(name, beside=beside)
    profile = check(ModelProfile, load_yaml(path), str(path))
    _refuse_secrets(profile, str(path))
    check(SamplingParams, profile.generation, str(path), at="generation")
    check_validation(profile.validation, str(path))
    check(PromptSpec, profile.prompt, str(path), at="prompt")
    return profile


def _refuse_secrets(profile: ModelProfile, where: str) -> None:
    """Refuse a profile with a key or password: the store keeps the profile with every run, and all readers could see it."""
    if found := next(find_secrets(profile.model_dump()), None):
        raise ConfigError(
            f"{where}: {found}: looks like a secret, and profiles are stored with every run. Secrets must come from the "
            "environment: remove it and set a variable, for example OPENAI_API_KEY"
        )


def find_profile(name: str, *, beside: Path | None = None) -> Path:
    """Return the file of a profile. Raises ``ConfigError``, which suggests the closest known name."""
    if name.endswith((".yaml", ".yml")):
        candidates = [folder / name for folder in (beside, Path.cwd()) if folder is not None]
    else:
        candidates = [folder / f"{name}.yaml" for folder in _profile_folders()]
    for candidate in candidates:
        if os.path.isfile(candidate):  # noqa: PTH113  Path.is_file raises for a name that is too long
            return candidate
    known = _list_known()
    raise ConfigError(
        f"model profile {name!r} not found{suggest(name, known)}\n"
        f"  looked at: {', '.join(map(str, candidates))}\n  known profiles: {', '.join(known)}"
    )


def find_weights(profile: ModelProfile, *, profile_path: Path) -> str:
    """Return the folder of the weights, or their hub id. A relative path starts at the profile's folder.

    Raises ``ConfigError`` if the folder does not exist or cannot be read.
    """
    weights = profile.weights or profile.name
    if not weights.startswith((".", "/")):
        return weights
    folder = (profile_path.parent / weights).resolve()
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        fault = f"{folder} cannot be read: {error.strerror}; check its permissions and those of the folders above it"
        raise explain_unreadable(error, f"{profile_path}: weights: {fault}") from error
    if not is_folder:
        raise ConfigError(f"{profile_path}: weights: {folder} is not a folder; expected the folder of a saved model")
    return str(folder)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises ``ConfigError`` if the file cannot be read or contains another type."""
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(MOST_CHARACTERS + 1)  # a user may pass a large dataset instead of the spec
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise explain_unreadable(error, f"{path}: cannot be read: {error.strerror}; expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason}); expected YAML text in UTF-8") from error
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of fields at the top, found {_describe(raw)}")
    return raw


def apply_change(raw: dict[str, Any], change: str) -> None:
    """Set one field in place, as in ``generation.max_tokens=64`` or, with a list index, ``datasets.0.limit=50``."""
    field, equals, text = change.partition("=")
    *parents, last = field.split(".")
    if not equals or not all((*parents, last)):
        raise ConfigError(f"--set {change!r}: expected FIELD=VALUE, for example generation.max_tokens=64")
    value = parse_yaml(text, f"--set {change!r}")
    target: Any = raw
    for step in parents:
        if isinstance(target, list):
            target = target[_list_index(target, step, change)]
        else:
            if target.get(step) is None:
                target[step] = {}
            target = target[step]
        if not isinstance(target, dict | list):
            raise ConfigError(f"--set {change!r}: {step!r} is a plain value and has no fields")
    target[_list_index(target, last, change) if isinstance(target, list) else last] = value


def check(model: type[Model], raw: dict[str, Any], where: str, *, at: str = "") -> Model:
    """Validate ``raw``, the content of field ``at`` in file ``where``, and return it as a ``model``.

    Raises ``ConfigError`` with one line for each mistake.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(mistake, model, raw, where, at) for mistake in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def check_validation(raw: dict[str, Any], where: str) -> Validation:
    """Validate the ``validation`` section of file ``where`` and return it. Raises ``ConfigError``, also for unknown validators."""
    validation = check(Validation, raw, where, at="validation")
    check_validators(validation.validators, f"{where}: validation.validators")
    return validation


def _explain(mistake: Any, model: type[BaseModel], raw: Any, where: str, at: str) -> str:
    path = _drop_labels(raw, mistake["loc"])
    place = ": ".join(filter(None, [where, ".".join(filter(None, [at, *map(str, path)]))]))
    field = str(path[-1]) if path else ""
    kind, found = mistake["type"], _describe(mask_record({field: mistake["input"]})[field])
    if kind == "extra_forbidden":
        *parents, last = mistake["loc"]
        known = _fields_at(model, parents)
        return f"{place}: unknown field (found {found}){suggest(str(last), known)}; known fields: {', '.join(known)}"
    if kind == "missing":
        return f"{place}: missing; expected a value"
    if kind == "value_error":
        return f"{place}: {mistake['ctx']['error']}"
    return f"{place}: found {found}; expected: {_EXPECTED.get(kind) or mistake['msg'].removeprefix('Input should be ')}"


def _describe(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _drop_labels(raw: Any, path: tuple[str | int, ...]) -> list[str | int]:
    """Return the path of a mistake without the type names that pydantic inserts for fields of several types."""
    steps: list[str | int] = []
    for number, step in enumerate(path):
        is_there = step in raw if isinstance(raw, dict) else isinstance(raw, list | tuple) and isinstance(step, int)
        if is_there or (isinstance(raw, dict) and number == len(path) - 1):  # the last step may be a missing field
            steps.append(step)
            raw = raw.get(step) if isinstance(raw, dict) else raw[int(step)]
    return steps


def _fields_at(model: type[BaseModel], parents: list[Any]) -> list[str]:
    """Follow the path of a mistake from ``model`` and return the known field names at its end."""
    here = [model]
    for parent in parents:
        fields = [one.model_fields[parent] for one in here if parent in one.model_fields]
        below = [found for field in fields for found in _models_in(field.annotation)]
        named = [one for one in here if one.__name__ == parent]
        here = below or named or here  # otherwise the step is the index of a list or the key of a mapping
    return sorted({name for one in here for name in one.model_fields} - _RESOLVED)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


# Pydantic's messages name Python types. Users write YAML, so these texts name YAML types.
_EXPECTED = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
    "string_type": "text",
    "invalid_key": "a field name that is text",
}


def _profile_folders() -> list[Path]:
    own = get_settings().profiles_dir
    return [*([own] if own else []), BUILT_IN_PROFILES]


def _list_known() -> list[str]:
    names: set[str] = set()
    for folder in _profile_folders():
        with suppress(OSError):  # a folder without read permission is skipped
            names |= {path.stem for path in folder.glob("*.yaml")}
    return sorted(names)


def _list_index(target: list[Any], step: str, change: str) -> int:
    if not step.isdecimal() or int(step) >= len(target):
        raise ConfigError(f"--set {change!r}: {step!r} is not an index into a list of {len(target)}")
    return int(step)


def _resolve_run(asked: RunFile, model: str, datasets: tuple[DatasetSource, ...], path: Path) -> RunSpec:
    profile = read_profile(model, beside=path.parent)
    where, profile_path = str(path), find_profile(model, beside=path.parent)
    theirs = check(PromptSpec, profile.prompt, str(profile_path), at="prompt")
    prompt = resolve_prompt(check(PromptSpec, asked.prompt, where, at="prompt"), theirs, path, profile_path)
    return RunSpec(
        model=profile,
        datasets=tuple(source.model_copy(update={"asks_turns": prompt.asks_turns}) for source in datasets),
        generation=check(SamplingParams, {**profile.generation, **asked.generation}, where, at="generation"),
        validation=check_validation({**profile.validation, **asked.validation}, where),
        prompt=prompt,
        shuffle=asked.shuffle,
        chunks=asked.chunks,
        abort_if=asked.abort_if,
    )
