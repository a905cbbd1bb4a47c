"""The datasets of ``benchmarks.scale``. Each case writes its files from a fixed seed in a separate process with little memory.

Images are the first bytes of a JPEG file followed by random bytes. This is enough, because the producer does not decode images.
"""

import base64
import io
import itertools
import json
import random
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

_SEED = 7
_SMALLEST_BYTES, _LARGEST_BYTES = 100_000, 2_000_000  # sizes of images in TSV and Parquet files
_TAR_LEAST_BYTES, _TAR_MOST_BYTES = 20_000, 180_000  # sizes of images in shards, as img2dataset writes them
_SHARDS = 20
_GROUP_ROWS = 100  # rows of a Parquet row group; the library `datasets` uses this number for images
_JPEG = b"\xff\xd8\xff\xe0"


@dataclass(frozen=True, slots=True)
class Case:
    """A dataset.

    - ``size`` is its number of rows or bytes at scale 1, and ``size_bytes`` its size in bytes.
    - ``disk_factor`` is the free space that generating and enqueueing need, as a multiple of ``size_bytes``.
    - ``path`` is the path in the spec, relative to the folder of the dataset.
    - ``write`` writes its files.
    """

    title: str
    size: int
    size_bytes: int
    disk_factor: int
    path: str
    write: Callable[[Path, int], None]


def write_jsonl(folder: Path, rows: int) -> None:
    """Write text questions with an id, a target and metadata."""
    with (folder / "rows.jsonl").open("w") as stream:
        for number in range(rows):
            row = {
                "id": f"q{number:07}",
                "question": f"A box holds {number} red and {number % 97} blue balls. How many balls are in it? Give the number.",
                "target": str(number + number % 97),
                "metadata": {"source": "synthetic", "split": "test", "level": number % 5},
                "topic": "arithmetic",
            }
            stream.write(json.dumps(row) + "\n")


def write_tsv(folder: Path, size_bytes: int) -> None:
    """Write a TSV in VLMEvalKit's form: an index, a base64 image, a question, four options and an answer."""
    with (folder / "rows.tsv").open("wb") as stream:
        stream.write(b"index\timage\tquestion\tA\tB\tC\tD\tanswer\n")
        images = iterate_images(_SMALLEST_BYTES, _LARGEST_BYTES)
        for number in itertools.takewhile(lambda _: stream.tell() < size_bytes, itertools.count()):
            stream.write(b"%d\t%b\t" % (number, base64.b64encode(next(images))))
            stream.write(b"What is shown?\tcat\tdog\tbird\tfish\t%b\n" % b"ABCD"[number % 4 :][:1])


def write_parquet(folder: Path, size_bytes: int) -> None:
    """Write images as structs of bytes and path, in row groups of 100 rows. A column of a group is one page of about 100 MB."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("id", pa.string()), ("image", image), ("question", pa.string()), ("answer", pa.string())])
    images = iterate_images(_SMALLEST_BYTES, _LARGEST_BYTES)
    with parquet.ParquetWriter(folder / "rows.parquet", schema) as writer:
        written, number = 0, 0
        while written < size_bytes:
            rows: list[dict[str, object]] = []
            while len(rows) < _GROUP_ROWS and written < size_bytes:
                content = next(images)
                embedded = {"bytes": content, "path": f"{number}.jpg"}
                rows.append({"id": str(number), "image": embedded, "question": "What is shown?", "answer": f"object {number % 9}"})
                written += len(content)
                number += 1
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=_GROUP_ROWS)


def write_shards(folder: Path, size_bytes: int) -> None:
    """Write webdataset shards: an image, a caption and an object of fields for each key."""
    images = iterate_images(_TAR_LEAST_BYTES, _TAR_MOST_BYTES)
    for shard in range(_SHARDS):
        path = folder / f"{shard:05}.tar"
        with tarfile.open(path, "w") as tar:
            number = 0
            while tar.offset * _SHARDS < size_bytes:
                key = f"{shard:05}{number:04}"
                caption = f"picture {number} of shard {shard}"
                fields = json.dumps({"width": 448, "height": 448, "url": f"https://images.example/{key}.jpg"})
                members = (("jpg", next(images)), ("txt", caption.encode()), ("json", fields.encode()))
                for extension, content in members:
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                tar.members.clear()  # type: ignore[attr-defined]  # TarFile keeps all members
                number += 1


def iterate_images(least_bytes: int, most_bytes: int) -> Iterator[bytes]:
    """Yield an endless sequence of different contents with sizes between the bounds.

    Each content is cut from the same random bytes, which are twice as long as the upper bound.
    """
    chance = random.Random(_SEED)  # reproducible contents, not a secret
    noise = chance.randbytes(2 * most_bytes)
    for number in itertools.count():
        length = chance.randint(least_bytes, most_bytes)
        start = chance.randrange(most_bytes)
        yield _JPEG + number.to_bytes(8, "big") + noise[start : start + length - len(_JPEG) - 8]


CASES = {
    "jsonl": Case("JSON lines", 1_000_000, 300_000_000, 6, "rows.jsonl", write_jsonl),
    "tsv": Case("TSV with base64 images", 5_000_000_000, 5_000_000_000, 2, "rows.tsv", write_tsv),
    "parquet": Case("Parquet with image bytes", 2_000_000_000, 2_000_000_000, 5, "rows.parquet", write_parquet),
    "tar": Case("20 webdataset shards", 5_000_000_000, 5_000_000_000, 2, "{00000..00019}.tar", write_shards),
}


def main() -> None:
    name, folder, size = sys.argv[1:]
    CASES[name].write(Path(folder), int(size))


if __name__ == "__main__":
    main()
