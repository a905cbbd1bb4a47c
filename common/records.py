"""The records that travel between producer, queue, workers and store.  All are immutable."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["multiple_choice", "yes_no", "number", "short_text", "free_text"]
Status = Literal["ok", "invalid", "failed"]
FinishReason = Literal["stop", "length", "error"]

# A sample's state in the ledger is one byte.  States only ever rise (a lattice merge), so that a message that comes
# twice, late or out of order changes nothing.
STATE_BYTES: dict[str, int] = {"unprocessed": 0, "failed": 1, "invalid": 2, "ok": 3}


class Record(BaseModel):
    """Base of all records: frozen, and no field that nobody declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Fault(Record):
    """Why a sample cannot be asked: a stable code and a message for a person."""

    code: str
    message: str


class Media(Record):
    """One image or video: inline bytes, a path or URL, or a byte range of a dataset file.

    Exactly one of ``data`` (base64 text) and ``uri`` is set.  With ``offset`` and ``length`` (bytes) the media is that
    range of the file at ``uri``, and ``encoding`` says whether the range holds base64 text or the bytes themselves.
    """

    kind: Literal["image", "video"] = "image"
    data: str | None = None
    uri: str | None = None
    offset: int | None = None
    length: int | None = None
    encoding: Literal["base64", "raw"] = "raw"


class Sample(Record):
    """One question to a model.

    ``sample_id`` is a digest of the dataset's name and the sample's content, so the same row has the same id in every
    run; ``index`` is the row's own name in its dataset.  ``target`` lists the accepted answers and is empty when none
    is known.  A row that cannot be asked carries its ``fault`` and still is a sample, so that it is counted.
    """

    sample_id: str
    dataset: str
    index: int | str
    kind: Kind = "short_text"
    question: str = ""
    hint: str | None = None
    options: dict[str, str] = Field(default_factory=dict)
    target: tuple[str, ...] = ()
    media: tuple[Media, ...] = ()
    group: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)
    fault: Fault | None = None
    made_before: int = 0
    violations_before: tuple[str, ...] = ()


class Attempt(Record):
    """One generation for one sample.  ``violations`` names the validators it did not pass; ``latency_s`` is in seconds."""

    number: int
    response: str
    violations: tuple[str, ...] = ()
    finish_reason: FinishReason | None = None
    temperature: float = 0.0
    seed: int | None = None
    latency_s: float = 0.0


class Outcome(Record):
    """A sample's single final record.

    ``response`` is the raw text of the last attempt, ``prediction`` the adapter's reading of it (thinking and markers
    removed), ``answer`` the letter, yes/no, number or text extracted from that, ``None`` if there is none.  ``failed``
    has an ``error_code`` and no prediction: error text is never an answer.  Times are Unix seconds.
    """

    sample_id: str
    dataset: str
    index: int | str
    model: str
    status: Status
    prediction: str | None = None
    answer: str | None = None
    target: tuple[str, ...] = ()
    response: str | None = None
    attempts: tuple[Attempt, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    truncated: bool = False
    worker: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class DatasetCounts(Record):
    """What reading a dataset found: ``rows = unique + duplicates``."""

    name: str
    rows: int
    unique: int
    duplicates: int


class Plan(Record):
    """A run's shuffled samples as they lie in the store: how many there are, and where chunks and datasets begin."""

    run_id: str
    samples: int
    chunks: int
    datasets: tuple[DatasetCounts, ...]

    @property
    def dataset_numbers(self) -> dict[str, int]:
        """Return the number of each dataset, its index in ``datasets``. Chunks and ledger count samples by this number."""
        return {counts.name: number for number, counts in enumerate(self.datasets)}


class Chunk(Record):
    """A fixed short list of a plan's samples: the unit of message, lease and part.

    ``number`` counts over all waves.  ``samples_key`` names the object that holds its samples, ``offset`` and ``length``
    (bytes) find them there, ``crc32`` verifies them; ``datasets`` counts them by the plan's order of datasets.  ``first`` is
    the plan position of the first one; in a later wave ``scattered`` names all positions, in rising order.
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
        """Return the plan positions of its samples, in order."""
        return self.scattered or range(self.first, self.first + self.count)


class Part(Record):
    """One immutable Parquet object with a finished chunk's outcomes."""

    run_id: str
    chunk: int
    key: str
    outcomes: tuple[Outcome, ...]


class Lease(Record):
    """A worker's time-limited hold on a chunk.  ``token`` fences off a holder whose lease went to another.

    ``suspect`` says that the chunk has taken an engine down: its samples are to be run one at a time.
    """

    run_id: str
    chunk: int
    token: str
    worker: str
    suspect: bool = False
