"""webdataset shards: groups, byte ranges, patterns, and damaged tars. The tars are written with ``tarfile``."""

import io
import json
import random
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.errors import ConfigError
from common.records import Sample
from common.spec.dataset_paths import resolve_dataset
from common.spec.models import DatasetSource, MediaBounds
from producer.datasets import read_dataset
from tests.support.media.media import load_image
from tests.support.media.pictures import make_png
from workers.media.files import MediaAccess

RED, BLUE = make_png("red"), make_png("blue")
Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members, tar_format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            add(tar, name, content)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **attributes: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    tar.addfile(member, io.BytesIO(content))


def read(path: Path | str, **options: object) -> list[Sample]:
    source = DatasetSource.model_validate({"path": str(path), "name": "set", "question": "What?", **options})
    return list(read_dataset(resolve_dataset(source, Path(path).parent / "spec.yaml", 0)))


def show_faults(samples: list[Sample]) -> list[tuple[str, str] | None]:
    return [(sample.fault.code, sample.fault.message) if sample.fault else None for sample in samples]


def test_members_of_a_key_are_one_row(tmp_path: Path) -> None:
    fields = json.dumps({"url": "https://x", "target": "red", "image": "elsewhere.png"}).encode()
    path = write_tar(
        tmp_path / "00000.tar",
        [
            ("0001.jpg", RED),
            ("0001.json", fields),
            ("0001.txt", b"A red square.\n"),
            ("0002.left.PNG", RED),
            ("0002.right.png", BLUE),
            ("0002.cls", b"7"),
            ("a/b.c/0003.webp", BLUE),
            ("a/b.c/0003.txt", b"blue"),
            ("a/b.c/0003.cls", b"8"),
            ("./0004.mp4", b"video"),
            ("./0004.question.txt", b"Which?"),
        ],
    )
    first, second, third, fourth = read(path)
    assert (first.index, first.target, first.question) == ("00000/0001", ("red",), "What?")
    assert first.metadata == {"url": "https://x", "txt": "A red square.", "image": "elsewhere.png", "__key__": "0001"}
    assert (second.index, second.target, len(second.media)) == ("00000/0002", ("7",), 2)
    assert (third.index, third.target, third.metadata) == ("00000/a/b.c/0003", ("blue",), {"cls": "8", "__key__": "a/b.c/0003"})
    assert (fourth.index, fourth.question, fourth.media[0].kind) == ("00000/0004", "Which?", "video")
    assert [sample.fault for sample in (first, second, third, fourth)] == [None] * 4


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_byte_ranges_of_the_tar(tmp_path: Path, tar_format: int) -> None:
    folder = "deep/" * 30 if tar_format != tarfile.USTAR_FORMAT else "deep/" * 15
    path = write_tar(tmp_path / "set.tar", [(f"{folder}{colour}.png", make_png(colour)) for colour in ("red", "lime")], tar_format)
    samples = read(path)
    access = MediaAccess((str(tmp_path),), urls=False, url_timeout_s=1)
    colours = [load_image(sample.media[0], access, MediaBounds()).getpixel((0, 0)) for sample in samples]
    assert colours == [(255, 0, 0), (0, 255, 0)]
    assert [sample.media[0].data for sample in samples] == [None, None]
    assert [sample.index for sample in samples] == [f"set/{folder}red", f"set/{folder}lime"]


def test_equal_images_share_a_group_across_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.png", RED), ("2.png", BLUE)])
    write_tar(tmp_path / "b.tar", [("3.png", RED)])
    samples = read(tmp_path / "{b,a}.tar")
    assert [sample.index for sample in samples] == ["a/1", "a/2", "b/3"]
    assert samples[0].group == samples[2].group != samples[1].group
    assert samples[0].media[0].digest == samples[2].media[0].digest


def test_digest_media_never_reads_no_images(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", [("1.png", RED)])
    assert read(path, digest_media="never")[0].media[0].digest is None


@pytest.mark.parametrize("pattern", ["shard-{000..001}.tar", "shard-*.tar", "shard-{000,001}.tar", "shard-00[01].tar"])
def test_pattern_names_several_shards(tmp_path: Path, pattern: str) -> None:
    for number in range(2):
        write_tar(tmp_path / f"shard-{number:03}.tar", [(f"{number}.png", RED)])
    assert [sample.index for sample in read(tmp_path / pattern)] == ["shard-000/0", "shard-001/1"]


def test_missing_shard_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "shard-0.tar", [("0.png", RED)])
    with pytest.raises(ConfigError, match=r"no file matches '.*shard-\{0\.\.2\}\.tar'; looked at .*shard-1\.tar; expected"):
        read(tmp_path / "shard-{0..2}.tar")


def test_mapping_renames_the_members(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", [("1.png", RED), ("1.txt", b"caption"), ("1.cls", b"3")])
    (sample,) = read(path, fields={"target": "cls", "id": "__key__"})
    assert (sample.index, sample.target, sample.metadata) == ("1", ("3",), {"txt": "caption"})


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_tar_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"set.tar.{kind}"
    with tarfile.open(path, f"w:{kind}") as tar:  # type: ignore[call-overload]
        add(tar, "1.png", RED)
    with pytest.raises(ConfigError, match=r"is compressed with .*; expected an uncompressed tar"):
        read(path)


@pytest.mark.parametrize(
    ("members", "codes", "part"),
    [
        ([("2.json", b"{}"), ("2.txt", b"x")], ["bad_media"], r"no image or video among its members (.json, .txt)"),
        ([("2.png", RED), ("2.png", BLUE)], ["bad_media"], "2.png: is the second member with the extension .png"),
        ([("2.png", RED), ("3.png", RED), ("2.txt", b"x")], [None, None, "bad_row"], "the key is used twice in the shard"),
        ([("2.png", RED), ("2.json", b"[]")], ["bad_row"], "2.json: found [] (a list); expected a JSON object"),
        ([("2.png", RED), ("2.json", b'{"a": 1, "a": 2}')], ["bad_row"], "2.json: the key 'a' is given twice"),
        ([("2.png", RED), ("2.txt", b"\xff")], ["bad_field"], "2.txt: not UTF-8 (byte 1)"),
        ([("2.png", RED), ("2.txt", b"x" * (8 * 2**20 + 1))], ["bad_field"], "2.txt: longer than 8,388,608 bytes"),
        ([("2\udcff.png", RED)], ["bad_media"], "is not UTF-8; rename the file"),
    ],
)
def test_bad_group_is_a_fault(tmp_path: Path, members: Members, codes: list[str | None], part: str) -> None:
    samples = read(write_tar(tmp_path / "set.tar", [("1.png", RED), *members, ("9.png", RED)]))
    faults = show_faults(samples)
    assert [fault[0] if fault else None for fault in faults] == [None, *codes, None]
    (message,) = [fault[1] for fault in faults if fault]
    assert message.startswith("set.tar: 2")
    assert part in message
    assert all(sample.model_dump_json() for sample in samples)


@pytest.mark.parametrize(
    ("attributes", "part"),
    [
        ({"type": tarfile.LNKTYPE, "linkname": "1.png"}, "2.png: is a hard link to '1.png'; expected the file itself"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "2.png: is a symbolic link to '/etc/passwd'"),
        ({"type": tarfile.FIFOTYPE}, "2.png: is not a file"),
    ],
)
def test_link_or_device_is_a_fault(tmp_path: Path, attributes: dict[str, Any], part: str) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        add(tar, "1.png", RED)
        add(tar, "2.png", **attributes)
        add(tar, "folder.d", type=tarfile.DIRTYPE)
    first, second = show_faults(read(tmp_path / "set.tar"))
    assert first is None
    assert second is not None
    assert second[0] == "bad_media"
    assert part in second[1]


def test_sparse_member_is_a_fault(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        headers = {"GNU.sparse.map": "0,8", "GNU.sparse.size": "4096", "GNU.sparse.numblocks": "1"}
        add(tar, "1.png", RED[:8], pax_headers=headers)
        add(tar, "2.png", RED)
    first, second = show_faults(read(tmp_path / "set.tar"))
    assert first is not None
    assert "1.png: is a sparse file; expected a plain file" in first[1]
    assert second is None


def cut_inside_member(content: bytes) -> bytes:
    return content[: content.index(BLUE) + 5]


def cut_at_header(content: bytes) -> bytes:
    return content[:1024]


def cut_inside_header(content: bytes) -> bytes:
    return content[:1224]


def damage_header(content: bytes) -> bytes:
    return content[:1024] + b"\xff" * 512 + content[1536:]


@pytest.mark.parametrize(
    ("damage", "faulty", "part"),
    [
        (cut_inside_member, "2", "2.png: the tar ends inside this member"),
        (cut_at_header, "1", "the tar has no end-of-archive block; it is cut off"),
        (cut_inside_header, "1", "the tar has no end-of-archive block; it is cut off"),
        (damage_header, "1", "not a tar header at byte 1024"),
    ],
)
def test_damaged_tar_is_a_fault_of_the_last_row(tmp_path: Path, damage: object, faulty: str, part: str) -> None:
    assert callable(damage)
    path = write_tar(tmp_path / "a.tar", [("1.png", RED), ("2.png", BLUE), ("3.png", RED)])
    path.write_bytes(damage(path.read_bytes()))
    write_tar(tmp_path / "b.tar", [("4.png", RED)])
    samples = read(tmp_path / "*.tar")
    *_, last, next_shard = show_faults(samples)
    assert samples[-2].index == f"a/{faulty}"
    assert last is not None
    assert (last[0] in ("bad_row", "bad_media"), part in last[1], "missing: restore the shard" in last[1]) == (True, True, True)
    assert next_shard is None


@pytest.mark.parametrize("content", [b"", b"not a tar", b"x" * 2048])
def test_file_that_is_no_tar_is_one_fault(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    write_tar(tmp_path / "b.tar", [("4.png", RED)])
    bad, good = show_faults(read(tmp_path / "{a,b}.tar"))
    assert bad is not None
    assert (bad[0], good) == ("bad_row", None)


def test_other_members_are_reported(tmp_path: Path) -> None:
    members = [("1.png", RED), ("1.npy", b"x"), ("README", b"x"), ("__meta__/1.png", RED), ("._1.png", b"mac"), (".hidden", b"x")]
    path = write_tar(tmp_path / "set.tar", members)
    with capture_logs() as logs:
        assert [sample.index for sample in read(path)] == ["set/1"]
    (event,) = logs
    assert (event["event"], event["endings"]) == ("dataset.files_skipped", {".npy": 1, "without a key": 4})


def test_shard_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", [(f"{number}.png", RED) for number in range(20_000)])
    tracemalloc.start()
    try:
        rows = sum(1 for _ in read_dataset(DatasetSource(path=str(path), question="Q?", digest_media="never")))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 20_000
    assert peak_bytes < 8 * 2**20


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_stop_the_reader(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    members = [("long/" * 40 + "1.png", RED), ("2.png", BLUE), ("2.json", b'{"target": "x"}'), ("3.txt", b"x"), ("3.png", RED)]
    path = write_tar(tmp_path / "set.tar", members, source.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    content = bytearray(path.read_bytes())
    for _ in range(source.randrange(1, 30)):
        content[source.randrange(257, len(content))] = source.randrange(256)
    path.write_bytes(content[: source.randrange(600, len(content))])
    samples = read(path)
    assert samples
    assert all(sample.model_dump_json() for sample in samples)
