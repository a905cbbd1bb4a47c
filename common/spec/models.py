"""Pydantic models of the user's run spec, of the model profile, and of the ``RunSpec`` that combines both.

``common/spec/files.py`` reads the files and explains mistakes to users.
"""

import re
import reprlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from common.digests import digest_record
from common.records import Kind, VideoInput
from common.spec.base import Spec as Spec  # other modules import it from here
from common.spec.base import Written
from common.spec.identity import select_identity_options
from common.spec.prompts import PromptSpec, expand_prompt

# The limit for a picture or video frame, in pixels. A decoded picture of this size takes 256 MB.
MOST_PIXELS = 64_000_000

COMPRESSED_ENDINGS = (".gz", ".zst", ".zstd")
GLOB_CHARACTERS = frozenset("*?[{")

# These options of a dataset count in the run id only if they are set. So runs without them keep the ids of earlier versions.
_COUNTED_IF_SET = ("question", "ignore", "table", "config", "split", "revision")
# These options of a dataset do not count in the run id. They do not change a request, or the rest of the spec determines them.
_NOT_COUNTED = (
    "path", "files", "readers", "media_root", "annotations", "digest_media", "media_digest", "found_kind", "asks_turns",
)  # fmt: skip


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(f"found {name!r}; expected at most 64 letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_check_name)]


def name_dataset(path: str) -> str:
    """Return the default name of a dataset: the file's name without its endings, or the folder's name for a glob."""
    steps = [step for step in Path(path).parts if not GLOB_CHARACTERS.intersection(step)]
    name = Path(steps[-1] if steps else path)
    return (Path(name.stem) if name.suffix.lower() in COMPRESSED_ENDINGS else name).stem


class TableFormat(StrEnum):
    """The form in which a dataset of tables shows a table to the model."""

    HTML = "html"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    IMAGE = "image"


class TableOption(Spec):
    """The form of the tables of a dataset. ``image`` adds the table's image to a text format."""

    format: TableFormat = Field(description="form of the table; image shows the picture of the table")
    image: bool = Field(False, description="whether the image of the table accompanies its text")


class DatasetSource(Spec):
    """One dataset: a file, several files of one format, a folder that a format reads as a whole, or ``hf://ORGANIZATION/NAME``.

    Files and folders may be in object storage (``common.storage.addresses``).
    ``path`` may also be a list, or a glob with braces as in ``shard-{000..019}.tar``. ``fields`` maps our field names to the
    names in the file (``{id: qid, target: answer}``).
    """

    path: Annotated[str, Written("text or a list of texts")] = Field(
        description="a file, a pattern such as train-*.parquet, a folder, one of these in object storage (s3://BUCKET/FOLDER, "
        "gs:// or az://), hf://ORGANIZATION/NAME, or a list of paths; relative paths start at the folder of the spec"
    )
    files: tuple[str, ...] = Field(
        (), description="the files in reading order, if there are several; set when the spec is resolved"
    )
    readers: int = Field(1, ge=1, le=64, description="number of files that are read at the same time; the rows keep their order")
    name: Name = Field(
        default="",
        validate_default=False,
        description="name of the dataset in results and scores; by default, the name of the file without its endings",
    )
    format: str | None = Field(
        None, description="name of the format; by default, the ending and the content of the file determine it"
    )
    limit: int | None = Field(None, gt=0, description="number of rows to read, from the first row; by default, all rows")
    kind: Kind | None = Field(None, description="question kind of every row; by default, the row or the dataset determines it")
    fields: dict[str, str] = Field(default_factory=dict, description="maps our name of a field to its name in the file")
    ignore: tuple[str, ...] = Field((), description="columns that are neither read nor kept as metadata")
    media_root: str | None = Field(
        None,
        description="folder, or address of a folder in object storage, at which relative media paths start; relative to the folder "
        "of the file; by default, that folder",
    )
    question: str | None = Field(None, description="the question of every row that does not have its own question")
    annotations: str | None = Field(None, description="file with the answers to the questions in path, for COCO VQA")
    table: TableOption | None = Field(None, description="form of the tables, for RealHiTBench")
    config: str | None = Field(None, description="configuration of a Hugging Face dataset")
    split: str | None = Field(None, description="split of a Hugging Face dataset")
    revision: str | None = Field(None, description="commit, branch or tag of a dataset on the Hugging Face hub")
    digest: str | None = Field(None, description="digest of the file's content; set when the spec is resolved")
    digest_media: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether the content of media files counts in the run id; auto: up to a maximum number of files and bytes",
    )
    media_digest: str | None = Field(None, description="digest of the content of all media files; set when the spec is resolved")
    found_kind: Kind | None = Field(None, description="question kind of rows without options; set when the spec is resolved")
    asks_turns: bool = Field(
        False, description="whether the turns of a conversation are asked one after the other; set when the spec is resolved"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_path(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if isinstance(paths := value.get("path"), list | tuple):
            if not paths or not all(isinstance(path, str) and path for path in paths):
                raise ValueError(f"path: found {reprlib.repr(paths)}; expected the path of a file, or a list of paths")
            value = {**value, "path": paths[0], "files": paths}
        if isinstance(value.get("path"), str) and not value.get("name"):
            return {**value, "name": name_dataset(value["path"])}
        return value

    @property
    def all_files(self) -> tuple[str, ...]:
        """Return the paths of the dataset's files in reading order."""
        return self.files or (self.path,)


class SamplingParams(Spec):
    """Sampling parameters of an engine. ``max_tokens`` counts new tokens; temperature 0 is greedy."""

    max_tokens: int = Field(256, gt=0, description="maximum number of new tokens of an answer")
    temperature: float = Field(0.0, ge=0, le=10, description="0 is greedy decoding")
    top_p: float = Field(1.0, gt=0, le=1, description="probability mass of the tokens that are sampled from")
    seed: int | None = Field(None, ge=0, lt=2**63, description="seed of the sampling; by default, each sample has its own seed")
    stop: tuple[str, ...] = Field((), description="texts that end the answer")


class Validation(Spec):
    """The validation of answers. A validator is a name, or a name with its argument: ``{max_words: 30}``."""

    max_attempts: int = Field(4, ge=1, le=20, description="maximum number of attempts for a sample, including the first")
    validators: tuple[str | dict[str, Any], ...] = Field(
        ("non_empty",), description="checks that an answer must pass: a name, or a name with its argument: {max_words: 30}"
    )


class Shuffle(Spec):
    """The order in which the samples of a run are sent to the model."""

    seed: int = Field(0, description="seed of the order; samples of one group stay together")


class Chunks(Spec):
    """Limits of a chunk: its samples, and the estimated bytes of their input."""

    max_samples: int = Field(64, gt=0, le=4096, description="maximum number of samples")
    max_input_bytes: int = Field(64 * 2**20, gt=0, description="maximum number of bytes of texts and media")


class AbortIf(Spec):
    """The condition that pauses a run: at least ``after`` samples have an outcome, and ``failed_rate`` of them have failed."""

    failed_rate: float = Field(gt=0, le=1, description="fraction of failed samples that pauses the run")
    after: int = Field(100, gt=0, description="number of samples with an outcome before the fraction is checked")


class MediaBounds(Spec):
    """Limits of a picture's size in pixels and of a video's frames, and the form in which a video is sent."""

    max_pixels: int | None = Field(
        None,
        gt=0,
        le=MOST_PIXELS,
        description="larger pictures are scaled down and keep their aspect ratio; by default, pictures are not scaled down",
    )
    min_pixels: int | None = Field(
        None, gt=0, le=MOST_PIXELS, description="smaller pictures are scaled up; by default, pictures are not scaled up"
    )
    max_frames: int = Field(16, gt=0, le=1024, description="frames taken from a video, evenly spaced")
    video_input: Literal["auto"] | VideoInput = Field(
        "auto",
        description="native: the frames of a video are sent through the model's own video input; frames: they are sent as images; "
        "auto: native if the model has a video input, else frames",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels: found {self.min_pixels}; expected at most max_pixels, which is {self.max_pixels}")
        return self


class ModelProfile(Spec):
    """A model: its engine (a short name or an import string), weights, engine options, adapter and default settings."""

    name: Name = Field(description="name of the model, and the start of the run id")
    engine: str = Field(description="echo, hf, openai or vllm, or the import string of an engine: package.module:Class")
    weights: str | None = Field(
        None,
        description="a folder (its path starts with . or / and is relative to this profile), a hub id, or "
        "the model's name at an API; by default, the same as name",
    )
    revision: str | None = Field(None, description="commit, branch or tag of the weights on the Hugging Face hub")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="options of the engine")
    adapter: str = Field("chat", description="name of the adapter of the model family, or an import string: package.module:Class")
    media: MediaBounds = Field(MediaBounds(), description="limits of images and videos")
    trust_remote_code: bool = Field(False, description="whether code from the folder or repository of the weights may run")
    generation: dict[str, Any] = Field(default_factory=dict, description="sampling parameters, unless the spec sets them")
    validation: dict[str, Any] = Field(default_factory=dict, description="validators and attempts, unless the spec sets them")
    prompt: Annotated[dict[str, Any], Written("mapping or text")] = Field(
        default_factory=dict, description="the prompt, unless the spec sets its fields; a text is the template"
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _read_name(cls, value: Any) -> Any:
        return expand_prompt(value)

    @property
    def identity_options(self) -> dict[str, Any]:
        """Return the engine options that identify a run, as JSON values."""
        return select_identity_options(self.engine, self.model_dump(mode="json")["engine_options"])


class RunFile(Spec):
    """The YAML file of a user: one model, or several models with one run each."""

    model: str | None = Field(
        None, description="a model profile: the name of a built-in profile or of your own profile, or the path of its file"
    )
    models: tuple[str, ...] = Field((), description="several model profiles in place of model; each gets its own run")
    datasets: tuple[DatasetSource, ...] = Field(description="the datasets, at least one, each with its own name")
    generation: dict[str, Any] = Field(default_factory=dict, description="sampling parameters that replace those of the profile")
    validation: dict[str, Any] = Field(
        default_factory=dict, description="validators and attempts that replace those of the profile"
    )
    prompt: Annotated[dict[str, Any], Written("mapping or text")] = Field(
        default_factory=dict, description="fields of the prompt that replace those of the profile; a text is the template"
    )
    shuffle: Shuffle = Field(Shuffle(), description="order of the samples")
    chunks: Chunks = Field(Chunks(), description="size of the pieces of work that a worker takes")
    abort_if: AbortIf | None = Field(None, description="condition that pauses the run")

    @field_validator("prompt", mode="before")
    @classmethod
    def _read_name(cls, value: Any) -> Any:
        return expand_prompt(value)

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
    prompt: PromptSpec = PromptSpec()
    shuffle: Shuffle
    chunks: Chunks
    abort_if: AbortIf | None = None

    def digest(self) -> str:
        """Return the digest, as 32 hexadecimal digits, of all settings that can change an answer.

        It covers the name, content and reading rules of each dataset, and the content of its media files if that is known. It
        does not cover the paths of files, the capacity options (``common.spec.identity``) and ``abort_if``. Media bounds, engine
        options and the prompt are included only if they are set, so that runs without them keep the ids of earlier versions.
        """
        asked = self._dump_asked()
        if self.model.identity_options:
            asked["model"]["engine_options"] = self.model.identity_options
        for source, described in zip(self.datasets, asked["datasets"], strict=True):
            if source.media_digest:
                described["media_digest"] = source.media_digest
        return digest_record(asked)

    def _dump_asked(self) -> dict[str, Any]:
        settings = {"engine_options", "generation", "validation", "prompt"}
        asked = self.model_dump(mode="json", exclude={"model": settings, "prompt": True, "abort_if": True})
        if prompt := self.prompt.dump_asked():
            asked["prompt"] = prompt
        asked["model"]["media"] = self.model.media.model_dump(exclude_defaults=True)
        if not asked["model"]["media"]:
            del asked["model"]["media"]
        for source in asked["datasets"]:
            for name in _NOT_COUNTED:
                del source[name]
            for option in _COUNTED_IF_SET:
                if not source[option]:
                    del source[option]
        return asked

    @property
    def run_id(self) -> str:
        """Return the run's id, for example ``tiny-1f0c92b4d7aa``."""
        return f"{self.model.name}-{self.digest()[:12]}"

    @property
    def earlier_run_id(self) -> str:
        """Return the id that earlier versions gave this run. They ignored engine options and the content of media files."""
        return f"{self.model.name}-{digest_record(self._dump_asked())[:12]}"
