"""Pydantic models of the user's run spec, of the model profile, and of the ``RunSpec`` that combines both.

``common/spec/files.py`` reads the files and explains mistakes to users.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from common.digests import digest_record
from common.records import Kind
from common.spec.identity import select_identity_options

# The limit for a picture or video frame, in pixels. Decoded, it takes 256 MB.
MOST_PIXELS = 64_000_000


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(f"found {name!r}; expected at most 64 letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_check_name)]


class Spec(BaseModel):
    """Base of all models of user input. An unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes, no, on and off as booleans, and Python accepts booleans as the numbers 1 and 0.
        if isinstance(value, bool) and bool not in (field := cls.model_fields[str(info.field_name)].annotation, *get_args(field)):
            raise ValueError(f"found {value}; YAML reads yes, no, on and off as booleans: quote text, write numbers as digits")
        return value


class DatasetSource(Spec):
    """One dataset file. ``fields`` maps our field names to the file's field names (``{id: qid, target: answer}``)."""

    path: str
    name: Name = Field(default="", validate_default=False, description="defaults to the file's name without its suffix")
    format: str | None = Field(None, description="a registered reader; by default, the file's suffix determines it")
    limit: int | None = Field(None, gt=0, description="read only the first rows")
    kind: Kind | None = Field(None, description="question kind of every row; by default, each row determines its kind")
    fields: dict[str, str] = Field(default_factory=dict)
    ignore: tuple[str, ...] = Field((), description="columns that are not read and not kept as metadata")
    media_root: str | None = Field(None, description="folder at which relative media paths start; by default, the file's folder")
    digest: str | None = Field(None, description="digest of the file's content; set when the spec is resolved")
    digest_media: Literal["auto", "always", "never"] = Field(
        "auto", description="whether the content of media files counts; auto: up to a maximum number of files and bytes"
    )
    media_digest: str | None = Field(None, description="digest of the content of all media files; set when the spec is resolved")
    found_kind: Kind | None = Field(None, description="question kind of rows without options; set when the spec is resolved")

    @model_validator(mode="before")
    @classmethod
    def _name_from_path(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("path"), str) and not value.get("name"):
            return {**value, "name": Path(value["path"]).stem}
        return value


class SamplingParams(Spec):
    """Sampling parameters of an engine. ``max_tokens`` counts new tokens; temperature 0 is greedy."""

    max_tokens: int = Field(256, gt=0)
    temperature: float = Field(0.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: tuple[str, ...] = ()


class Validation(Spec):
    """The validation of answers. A validator is a name, or a name with its argument: ``{max_words: 30}``."""

    max_attempts: int = Field(4, ge=1, le=20)
    validators: tuple[str | dict[str, Any], ...] = ("non_empty",)


class Shuffle(Spec):
    seed: int = 0


class Chunks(Spec):
    """Limits of a chunk: its samples, and the estimated bytes of their input."""

    max_samples: int = Field(64, gt=0, le=4096)
    max_input_bytes: int = Field(64 * 2**20, gt=0)


class AbortIf(Spec):
    """The condition that pauses a run: at least ``after`` samples have an outcome, and ``failed_rate`` of them have failed."""

    failed_rate: float = Field(gt=0, le=1)
    after: int = Field(100, gt=0)


class MediaBounds(Spec):
    """Limits of a picture's size in pixels and of a video's frames. ``None`` means unchanged."""

    max_pixels: int | None = Field(None, gt=0, le=MOST_PIXELS, description="larger pictures are scaled down in proportion")
    min_pixels: int | None = Field(None, gt=0, le=MOST_PIXELS, description="smaller pictures are scaled up")
    max_frames: int = Field(16, gt=0, le=1024, description="frames taken from a video, evenly spaced")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels: found {self.min_pixels}; expected at most max_pixels, which is {self.max_pixels}")
        return self


class ModelProfile(Spec):
    """A model: its engine (a short name or an import string), weights, engine options, adapter and default settings."""

    name: Name
    engine: str
    weights: str | None = Field(None, description="a folder (starts with . or /; relative to this profile) or a hub id")
    revision: str | None = None
    engine_options: dict[str, Any] = Field(default_factory=dict)
    adapter: str = "chat"
    media: MediaBounds = MediaBounds()
    trust_remote_code: bool = False
    generation: dict[str, Any] = Field(default_factory=dict)
    validation: dict[str, Any] = Field(default_factory=dict)

    @property
    def identity_options(self) -> dict[str, Any]:
        """Return the engine options that identify a run, as JSON values."""
        return select_identity_options(self.engine, self.model_dump(mode="json")["engine_options"])


class RunFile(Spec):
    """The YAML file of a user: one model, or several models with one run each."""

    model: str | None = None
    models: tuple[str, ...] = ()
    datasets: tuple[DatasetSource, ...]
    generation: dict[str, Any] = Field(default_factory=dict)
    validation: dict[str, Any] = Field(default_factory=dict)
    shuffle: Shuffle = Shuffle()
    chunks: Chunks = Chunks()
    abort_if: AbortIf | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if (self.model is None) == (not self.models):
            raise ValueError("give either model: NAME or models: [NAME, ...]")
        if not self.datasets:
            raise ValueError("datasets: found none; expected at least one, for example datasets: [{path: FILE}]")
        names = [source.name for source in self.datasets]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two datasets are called {doubled[0]!r}: give one of them another name")
        return self


class RunSpec(Spec):
    """One resolved run. It contains every value, including the defaults, so its digest identifies the run completely."""

    model: ModelProfile
    datasets: tuple[DatasetSource, ...]
    generation: SamplingParams
    validation: Validation
    shuffle: Shuffle
    chunks: Chunks
    abort_if: AbortIf | None = None

    def digest(self) -> str:
        """Return the digest, as 32 hexadecimal digits, of all settings that can change an answer.

        It covers the name, content and reading rules of each dataset, and the content of its media files if that is known. It
        does not cover the paths of files, the capacity options (``common.spec.identity``) and ``abort_if``. Media bounds and
        engine options are included only if the profile sets any, so that runs without them keep the ids of earlier versions.
        """
        asked = self._dump_asked()
        if self.model.identity_options:
            asked["model"]["engine_options"] = self.model.identity_options
        for source, described in zip(self.datasets, asked["datasets"], strict=True):
            if source.media_digest:
                described["media_digest"] = source.media_digest
        return digest_record(asked)

    def _dump_asked(self) -> dict[str, Any]:
        asked = self.model_dump(mode="json", exclude={"model": {"engine_options", "generation", "validation"}, "abort_if": True})
        asked["model"]["media"] = self.model.media.model_dump(exclude_defaults=True)
        if not asked["model"]["media"]:
            del asked["model"]["media"]
        for source in asked["datasets"]:
            del source["path"], source["media_root"], source["digest_media"], source["media_digest"], source["found_kind"]
            if not source["ignore"]:
                del source["ignore"]
        return asked

    @property
    def run_id(self) -> str:
        """Return the run's id, for example ``tiny-1f0c92b4d7aa``."""
        return f"{self.model.name}-{self.digest()[:12]}"

    @property
    def earlier_run_id(self) -> str:
        """Return the id that earlier versions gave this run. They ignored engine options and the content of media files."""
        return f"{self.model.name}-{digest_record(self._dump_asked())[:12]}"
