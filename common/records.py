"""The records that producers, workers, the ledger and the store exchange. All are immutable."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Kind = Literal["multiple_choice", "yes_no", "number", "short_text", "free_text"]
Status = Literal["ok", "invalid", "failed"]
FinishReason = Literal["stop", "length", "error"]

# A sample's state in the ledger is one byte. States only rise (a lattice merge), so a duplicate, late or reordered message
# does not change the result.
STATE_BYTES: dict[str, int] = {"unprocessed": 0, "failed": 1, "invalid": 2, "ok": 3}


# The row's identifier in its dataset. Earlier versions stored it as a number.
RowIndex = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class RunState(StrEnum):
    """The state of a run. ``ledger.lua`` and ``producer status --json`` use the same words."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


class VideoInput(StrEnum):
    """The form in which a video reaches a model."""

    NATIVE = "native"  # as a video, through the model's own video input
    FRAMES = "frames"  # as images, one for each frame


class Record(BaseModel):
    """Base of all records: frozen, without undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Fault(Record):
    """The reason why a sample cannot be sent to a model: a stable code (``common.sample_codes``) and a message for the user."""

    code: str
    message: str


class Media(Record):
    """One image or video: inline bytes, a path or URL, or a byte range of a dataset file.

    - ``data`` (base64 text) or ``uri`` is set, and never both.
    - ``offset`` and ``length`` (bytes), if set, give a byte range of the file at ``uri`` that contains the image or video.
    - ``encoding`` states whether the byte range contains base64 text or raw bytes.
    - ``digest`` is the digest of the decoded bytes at the time of planning, so the same image has the same digest in every form. It
      is None for a URL, and for a file that is identified by its path only. In plans of earlier versions, it is the digest of the
      base64 text of a byte range, and None for inline media.
    - ``number`` is its number in markers, such as ``<image 3>``. None stands for its position among the row's media of its kind,
      counted from 1.
    """

    kind: Literal["image", "video"] = "image"
    data: str | None = None
    uri: str | None = None
    offset: int | None = None
    length: int | None = None
    encoding: Literal["base64", "raw"] = "raw"
    digest: str | None = None
    number: int | None = None


class Message(Record):
    """One turn of a conversation. ``content`` lists texts and media in the order in which the model gets them.

    A number in ``content`` is an index of the list of media that accompanies the messages.
    """

    role: Literal["system", "user", "assistant"]
    content: tuple[str | int, ...]


class Twin(Record):
    """Another row of the same dataset with the same request as a sample. It is not sent, and gets a copy of the sample's outcome.

    ``media`` is set if the row names other files than the sample. The files have the same content.
    """

    row: int
    index: RowIndex
    target: tuple[str, ...] = ()
    media: tuple[Media, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    turn_targets: tuple[str | None, ...] = ()


class Sample(Record):
    """One question for a model.

    - ``sample_id`` is a digest of the dataset's name and the sample's content, so the same row has the same id in every run.
    - ``row`` is the row's position in its dataset, from 0, and ``index`` is its identifier.
    - ``target`` lists the accepted answers. It is empty if they are unknown.
    - ``messages`` is the row's own conversation, if it has one. A number in it is an index of ``media``.
    - ``fault`` is set for an invalid row, which also becomes a sample, so that it is counted.
    - ``request_digest`` is the digest of the messages that the model gets. Plans of earlier versions do not contain it.
    - ``twins`` are the other rows with the same request in plans of earlier versions. ``common.storage.twins`` reads all others.
    - ``turn_targets`` lists the written answer to each turn before the last one, if the turns are asked one after the other.
    - In a later wave, ``made_before`` counts the sample's earlier attempts, and ``violations_before`` lists the violations of the
      last of these attempts. ``turn_before`` is the turn that these attempts did not answer, if it was not the last turn.
    """

    sample_id: str
    dataset: str
    row: int = 0
    index: RowIndex
    kind: Kind = "short_text"
    question: str = ""
    hint: str | None = None
    options: dict[str, str] = Field(default_factory=dict)
    target: tuple[str, ...] = ()
    media: tuple[Media, ...] = ()
    messages: tuple[Message, ...] = ()
    group: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)
    fault: Fault | None = None
    request_digest: str | None = None
    twins: tuple[Twin, ...] = ()
    made_before: int = 0
    violations_before: tuple[str, ...] = ()
    turn_targets: tuple[str | None, ...] = ()
    turn_before: int | None = None


class Attempt(Record):
    """One generation for one sample. ``violations`` names the validators that it did not pass."""

    number: int = Field(description="number of the attempt, from 1")
    response: str = Field(description="the raw text of the model")
    violations: tuple[str, ...] = Field((), description="validators that the answer did not pass")
    finish_reason: FinishReason | None = Field(None, description="why the generation ended")
    temperature: float = Field(0.0, description="temperature of this attempt")
    seed: int | None = Field(None, description="seed of this attempt")
    latency_s: float = Field(0.0, description="time from the request to the answer")


class TurnAnswer(Record):
    """The answer to a turn before the last one, in a conversation whose turns are asked one after the other."""

    number: int = Field(description="number of the turn among the turns of the user, from 1")
    response: str = Field(description="the raw text of the model")
    prediction: str = Field(description="the answer without thinking blocks and markers, which the later turns contain")
    target: str | None = Field(None, description="the written answer of the row, which is not sent")
    attempts: int = Field(1, description="number of attempts")
    finish_reason: FinishReason | None = Field(None, description="why the generation ended")
    prompt_tokens: int | None = Field(None, description="tokens of the prompt, with images")
    output_tokens: int | None = Field(None, description="tokens of the response")
    temperature: float = Field(0.0, description="temperature of the last attempt")
    seed: int | None = Field(None, description="seed of the last attempt")
    latency_s: float = Field(0.0, description="time from the last request to the answer")


class Outcome(Record):
    """A sample's single final record.

    ``response`` is the raw text of the last attempt. ``prediction`` is the text that the adapter extracts from it, with
    thinking blocks and markers removed. ``answer`` is the letter, yes/no, number or text extracted from the prediction, or
    ``None``. A ``failed`` outcome has an ``error_code`` and no prediction: error text is never an answer. Times are Unix
    seconds.
    """

    sample_id: str = Field(description="id of the sample; rows with the same request share it")
    dataset: str = Field(description="name of the dataset")
    index: RowIndex = Field(description="id of the row in its dataset; by default, its position")
    model: str = Field(description="name of the model profile")
    status: Status = Field(description="ok, invalid (no attempt passed validation), failed (no answer) or unprocessed")
    prediction: str | None = Field(None, description="the answer without thinking blocks and markers; null if the sample failed")
    answer: str | None = Field(None, description="the letter, yes or no, number or text that the prediction states")
    target: tuple[str, ...] = Field((), description="accepted answers of the row")
    response: str | None = Field(None, description="the raw text of the last attempt")
    attempts: tuple[Attempt, ...] = Field((), description="all attempts in order, of the last turn that was asked")
    turns: tuple[TurnAnswer, ...] = Field((), description="the answers to the earlier turns, if the turns are asked one by one")
    error_code: str | None = Field(None, description="why the sample failed, or why an invalid sample had no further attempt")
    error_message: str | None = Field(None, description="the message of this error; it is never an answer")
    finish_reason: FinishReason | None = Field(None, description="why the last generation ended: stop, length or error")
    prompt_tokens: int | None = Field(None, description="tokens of the prompt of the last attempt, with images")
    output_tokens: int | None = Field(None, description="tokens of the response of the last attempt")
    truncated: bool = Field(False, description="always false, because prompts are never truncated")
    video_input: VideoInput | None = Field(
        None, description="native: the model got the row's videos as videos; frames: as images; null: the row has no video"
    )
    worker: str | None = Field(None, description="name of the worker")
    started_at: float | None = Field(None, description="start of the first attempt")
    finished_at: float | None = Field(None, description="end of the last attempt")
    metadata: dict[str, Any] = Field(default_factory=dict, description="all other columns of the row, as JSON")

    @property
    def counted_tokens(self) -> int:
        """Return the tokens of the response and of the answers to the earlier turns. Unknown numbers count as 0."""
        return (self.output_tokens or 0) + sum(turn.output_tokens or 0 for turn in self.turns)


class DatasetCounts(Record):
    """The counts of a dataset's rows: ``rows = unique + duplicates``."""

    name: str
    rows: int
    unique: int
    duplicates: int


class Plan(Record):
    """The plan of a run: the numbers of samples and chunks, and the counts of each dataset. The samples are in the store.

    ``faults`` counts the faulty rows by code. It is None in plans of earlier versions, which also dropped duplicate rows.
    ``twins_bytes`` is the size of the object with the twins. It is None in plans of earlier versions.
    """

    run_id: str
    samples: int
    chunks: int
    datasets: tuple[DatasetCounts, ...]
    faults: dict[str, int] | None = None
    twins_bytes: int | None = None

    @property
    def dataset_numbers(self) -> dict[str, int]:
        """Map each dataset's name to its index in ``datasets``. Chunks and the ledger count samples by this number."""
        return {counts.name: number for number, counts in enumerate(self.datasets)}

    @property
    def result_rows(self) -> dict[str, int]:
        """Map each dataset's name to the number of its rows in the results: all rows, or only unique rows in an earlier plan."""
        return {counts.name: counts.unique if self.faults is None else counts.rows for counts in self.datasets}


class Chunk(Record):
    """A short, fixed list of a plan's samples. Each chunk has one message, one lease and one part.

    ``number`` continues across waves. ``samples_key`` is the key of the object that holds its samples, in the byte range
    given by ``offset`` and ``length``; ``crc32`` verifies them. ``datasets`` counts the samples of each dataset, in the
    plan's order. ``first`` is the plan position of the first sample. In a later wave ``scattered`` lists all positions,
    ascending.
    """

    run_id: str
    number: int
    wave: int
    first: int
    count: int
    samples_key: str
    offset: int
    length: int
    crc32: int
    datasets: tuple[int, ...]
    scattered: tuple[int, ...] = ()

    @property
    def positions(self) -> Sequence[int]:
        """Return the plan positions of the chunk's samples, in order."""
        return self.scattered or range(self.first, self.first + self.count)


class Part(Record):
    """One immutable Parquet object with a finished chunk's outcomes."""

    run_id: str
    chunk: int
    key: str
    outcomes: tuple[Outcome, ...]


class Standing(StrEnum):
    """The standing of a chunk after the deaths of its earlier holders. ``ledger.lua`` determines it."""

    FRESH = "fresh"
    STRUCK = "struck"  # it was in flight when an engine died; a worker runs one such chunk at a time
    QUARANTINED = "quarantined"  # its samples run in small groups, apart from all others


class Lease(Record):
    """A worker's time-limited hold on a chunk. ``token`` is a fencing token: the ledger rejects a holder that lost its lease."""

    run_id: str
    chunk: int
    token: str
    worker: str
    standing: Standing = Standing.FRESH
