"""Compressed text files give the same rows as the plain file. Rows are never lost without an error."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from common.errors import ConfigError
from common.records import Sample
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from tests.support.datasets import make_base64


def pack_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": pack_zstd}
LARGE = make_base64(20_000)
FILES = {
    "set.jsonl": b'\xef\xbb\xbf{"question": "a?"}\n\nnot JSON\n{"question": "b?", "image": "data:image/png;base64,%s"}\n'
    % LARGE.encode(),
    "set.json": b'[{"question": "a?"}, 7, {"question": "b?"}]',
    "set.csv": b'question,note\na?,"x\ny"\nb?\nc?,"open\nd?,z\n',
    "set.tsv": b"index\tquestion\timage\n5\ta?\t%s\n6\tb?\t5\n7\tc?\t9\n" % LARGE.encode(),
}


def read(folder: Path, name: str, content: bytes, **more: object) -> list[Sample]:
    (folder / name).write_bytes(content)
    return list(read_dataset(DatasetSource.model_validate({"path": str(folder / name), "name": "set", **more})))


def describe(sample: Sample) -> tuple[object, ...]:
    message = sample.fault.message.partition(": ")[2] if sample.fault else None
    return sample.sample_id, sample.index, sample.question, sample.group, sample.metadata, message


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("name", FILES)
def test_compressed_file_has_the_same_samples(tmp_path: Path, name: str, ending: str) -> None:
    plain = read(tmp_path, name, FILES[name])
    packed = read(tmp_path, f"{name}.{ending}", PACKERS[ending](FILES[name]))
    assert [describe(sample) for sample in packed] == [describe(sample) for sample in plain]
    assert all(media.data and media.uri is None for sample in packed for media in sample.media)
    misnamed = read(tmp_path, name, PACKERS[ending](FILES[name]))
    assert [describe(sample) for sample in misnamed] == [describe(sample) for sample in plain]


@pytest.mark.parametrize("ending", PACKERS)
def test_plain_file_may_have_a_compressed_name(tmp_path: Path, ending: str) -> None:
    assert len(read(tmp_path, f"set.csv.{ending}", FILES["set.csv"])) == len(read(tmp_path, "set.csv", FILES["set.csv"]))


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("name", FILES)
def test_cut_compressed_file_is_refused(tmp_path: Path, name: str, ending: str) -> None:
    packed = PACKERS[ending](FILES[name] * (3 if name == "set.jsonl" else 1))
    for size in (len(packed) - 1, len(packed) - 6, len(packed) // 2, 12):
        with pytest.raises(ConfigError, match=rf"dataset 'set': .*{name}.*: the compressed file is cut or damaged \(.*\);"):
            read(tmp_path, f"{name}.{ending}", packed[:size])


@pytest.mark.parametrize("ending", PACKERS)
def test_damaged_compressed_file_is_refused(tmp_path: Path, ending: str) -> None:
    packed = bytearray(PACKERS[ending](FILES["set.jsonl"]))
    packed[len(packed) // 2] ^= 0xFF
    packed[len(packed) // 2 + 1] ^= 0xFF
    if ending == "zst":
        packed[4] ^= 0xFF  # pyarrow writes no checksum, so only damage of the structure is found
    with pytest.raises(ConfigError, match="the compressed file is cut or damaged"):
        read(tmp_path, f"set.jsonl.{ending}", bytes(packed))


@pytest.mark.parametrize("ending", PACKERS)
def test_joined_compressed_files_are_read_completely(tmp_path: Path, ending: str) -> None:
    parts = [f'{{"question": "{number}?"}}\n'.encode() for number in range(3)]
    samples = read(tmp_path, f"set.jsonl.{ending}", b"".join(map(PACKERS[ending], parts)))
    assert [sample.question for sample in samples] == ["0?", "1?", "2?"]


@pytest.mark.parametrize(
    ("content", "found"), [(gzip.compress(b"x", mtime=0), "gzip twice"), (b"PAR1", "a Parquet file"), (b"PK\3\4", "a zip")]
)
def test_other_formats_inside_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"set\.jsonl\.gz is (compressed with )?{found}"):
        read(tmp_path, "set.jsonl.gz", gzip.compress(content))
