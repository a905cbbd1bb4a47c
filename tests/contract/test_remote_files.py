"""Files in object storage: reading, listing, the states of objects, and the errors."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, FleetError, ServiceUnreachable
from common.spec.dataset_files import find_matches, iterate_folder
from common.spec.dataset_paths import resolve_dataset
from common.spec.models import DatasetSource
from common.storage import remote_files
from common.storage.files import is_file, is_folder, list_folder, open_file
from common.storage.store import ObjectState, Store, open_store
from producer.datasets.registry import read_dataset
from tests.support.faults.faulty_s3 import FaultyS3, answer, cut_answer, faulty_s3
from tests.support.media.pictures import write_files
from tests.support.servers.s3_server import put_empty, upload_file, upload_folder

__all__ = ["faulty_s3"]  # a fixture

MIB = 2**20
ROWS = b'{"question": "Q?"}\n' * 3
NAMES = ("a/x", "a/b/x", "a.x", "a-x", "a/B.jsonl", "a/b/c/1.jsonl", "z.jsonl", ".h/x", "a/.h", "é #?%20.jsonl", "[1]*.jsonl")


@pytest.fixture(autouse=True)
def no_known_states(monkeypatch: pytest.MonkeyPatch) -> None:
    remote_files.forget_states()
    monkeypatch.setattr(remote_files, "open_store", partial(open_store, patience_s=0.2))
    remote_files._open_bucket.cache_clear()  # noqa: SLF001  its stores have the patience and the endpoint of another test


def resolve(path: str, **fields: Any) -> DatasetSource:
    return resolve_dataset(DatasetSource(path=path, **fields), Path("/spec.yaml"), 0)


def test_remote_file_reads_like_a_local_file(tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.storage.files._BUFFER_BYTES", 64)
    generator = random.Random(7)
    content = b"\n".join(generator.randbytes(generator.randrange(200)) for _ in range(40))
    write_files(tmp_path, {"file": content})
    upload_file(f"{s3_url}/file", content)
    with open_file(str(tmp_path / "file")) as local, open_file(f"{s3_url}/file") as remote:
        for _ in range(300):
            operation, size = generator.choice(("read", "readline", "seek", "seek_end", "tell")), generator.randrange(300)
            found = [
                stream.seek(size) if operation == "seek"
                else stream.seek(-size, 2) if operation == "seek_end"
                else stream.tell() if operation == "tell"
                else getattr(stream, operation)(size)
                for stream in (local, remote)
            ]  # fmt: skip
            assert found[1] == found[0], operation


def test_folder_is_listed_like_a_local_folder(tmp_path: Path, s3_url: str, s3_endpoint: str) -> None:
    write_files(tmp_path, dict.fromkeys(NAMES, b"x"))
    upload_folder(tmp_path, s3_url)
    bucket = s3_url.removeprefix("s3://").removesuffix("/root")
    for mark in ("", "a/", "a/b/"):  # a console creates an empty object for each folder
        put_empty(f"{s3_endpoint}/{bucket}/root/{mark}")
    assert list(iterate_folder(s3_url)) == list(iterate_folder(str(tmp_path)))
    assert sorted(list_folder(s3_url)) == sorted(list_folder(str(tmp_path)))
    for name in ("a", "a/b", "a/b/x", "no", ""):
        here, there = (f"{root}/{name}".rstrip("/") for root in (str(tmp_path), s3_url))
        assert (is_folder(there), is_file(there)) == (is_folder(here), is_file(here)), name


@pytest.mark.parametrize(
    "pattern",
    ["*", "a/*", "**", "**/*.jsonl", "a/**/x", "*/*/x", "{a,a/b}/x", "[a-z].jsonl", "a/?.jsonl", "**/b/**", "a**", ".h/*", "*/.h"],
)
def test_pattern_names_the_local_files(tmp_path: Path, s3_url: str, pattern: str) -> None:
    write_files(tmp_path, dict.fromkeys(NAMES, b"x"))
    upload_folder(tmp_path, s3_url)
    here, there = (
        sorted(path.removeprefix(root) for path in find_matches(f"{root}/{pattern}")) for root in (str(tmp_path), s3_url)
    )
    assert there == here
    assert here


def test_bucket_is_a_folder(s3_url: str) -> None:
    bucket = s3_url.removesuffix("/root")
    upload_file(f"{bucket}/rows.jsonl", ROWS)
    assert resolve(bucket).path == f"{bucket}/rows.jsonl"


def test_literal_name_precedes_a_pattern(s3_url: str) -> None:
    upload_file(f"{s3_url}/[1]*.jsonl", ROWS)
    assert resolve(f"{s3_url}/[1]*.jsonl", name="set").path == f"{s3_url}/[1]*.jsonl"


@pytest.mark.parametrize("most", ["files", "folders"])
def test_states_beyond_the_listing_are_asked(s3_url: str, monkeypatch: pytest.MonkeyPatch, most: str) -> None:
    monkeypatch.setattr(remote_files, "MOST_LISTED" if most == "files" else "MOST_FOLDERS", 2 if most == "files" else 0)
    for name in ("a", "b", "c", "d"):
        upload_file(f"{s3_url}/{name}", name.encode() * 3)
    found = [remote_files.find_remote_state(f"{s3_url}/{name}") for name in ("d", "a", "no")]
    assert [state and state.size_bytes for state in found] == [3, 3, None]


def test_states_need_no_permission_to_list(faulty_s3: FaultyS3, s3_url: str) -> None:
    upload_file(f"{s3_url}/a", b"abc")
    faulty_s3.inject(answer(403, "AccessDenied"), "list-type")
    assert is_file(f"{s3_url}/a")


def test_interrupted_answer_is_read_again(faulty_s3: FaultyS3, s3_url: str) -> None:
    content = random.Random(1).randbytes(5 * MIB)
    upload_file(f"{s3_url}/a", content)
    with open_file(f"{s3_url}/a") as stream:
        faulty_s3.inject(cut_answer, "GET", times=1)
        assert stream.read() == content


# Memory: a request reads a bounded range, and skipped content is not requested.


def test_requests_are_bounded(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_file(f"{s3_url}/rows.jsonl", b'{"question": "%s"}\n' % (b"Q" * 1000) * 6000)
    lengths: list[int] = []
    really_get = Store.get_unchanged

    def get(store: Store, state: ObjectState, offset: int, length: int) -> bytes:
        lengths.append(length)
        return really_get(store, state, offset, length)

    monkeypatch.setattr(Store, "get_unchanged", get)
    assert sum(1 for _ in read_dataset(resolve(f"{s3_url}/rows.jsonl"))) == 6000
    assert max(lengths) <= 2 * MIB


# Errors at enqueue


def test_missing_object_names_the_address(s3_url: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"datasets\.0\.path: no file '{s3_url}/no\.jsonl'; looked at {s3_url}/no\.jsonl; expected"
    ):
        resolve(f"{s3_url}/no.jsonl")


def test_missing_bucket_names_the_address(s3_url: str) -> None:
    with pytest.raises(ConfigError, match=r"datasets\.0\.path: s3://no-such-bucket/x/rows\.jsonl cannot be read: no such bucket"):
        resolve("s3://no-such-bucket/x/rows.jsonl")


def test_empty_pattern_names_the_address(s3_url: str) -> None:
    with pytest.raises(ConfigError, match=rf"no file matches '{s3_url}/\*\.jsonl'; looked at {s3_url}/\*\.jsonl"):
        resolve(f"{s3_url}/*.jsonl", name="set")


@pytest.mark.parametrize(
    ("status", "code", "expected", "message"),
    [
        (403, "AccessDenied", ConfigError, "rows.jsonl cannot be read: Permission denied"),
        (403, "InvalidAccessKeyId", ConfigError, "rows.jsonl cannot be read: Permission denied"),
        (503, "SlowDown", ServiceUnreachable, "the store does not answer"),
    ],
)
def test_refused_request_names_the_cause(
    faulty_s3: FaultyS3, s3_url: str, status: int, code: str, expected: type[FleetError], message: str
) -> None:
    upload_file(f"{s3_url}/rows.jsonl", ROWS)
    faulty_s3.inject(answer(status, code))
    with pytest.raises(expected, match=message) as caught:
        resolve(f"{s3_url}/rows.jsonl")
    assert s3_url.removesuffix("/root") in str(caught.value)


def test_unreachable_storage_is_a_service_fault(faulty_s3: FaultyS3, s3_url: str) -> None:
    upload_file(f"{s3_url}/rows.jsonl", ROWS)
    faulty_s3.shut()
    with pytest.raises(ServiceUnreachable, match="the store does not answer") as caught:
        resolve(f"{s3_url}/rows.jsonl")
    assert caught.value.exit_code == 3


def test_short_outage_is_retried(faulty_s3: FaultyS3, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "open_store", open_store)
    upload_file(f"{s3_url}/rows.jsonl", ROWS)
    faulty_s3.inject(answer(500, "InternalError"), times=3)
    assert len(list(read_dataset(resolve(f"{s3_url}/rows.jsonl")))) == 3


def test_object_that_changes_while_read_is_refused(s3_url: str) -> None:
    upload_file(f"{s3_url}/rows.jsonl", ROWS * 100_000)
    rows = read_dataset(resolve(f"{s3_url}/rows.jsonl"))
    next(rows)
    upload_file(f"{s3_url}/rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"rows\.jsonl': the object changed while it was read; expected an object that stays"):
        list(rows)


def test_files_of_several_places_are_refused(tmp_path: Path, s3_url: str) -> None:
    write_files(tmp_path, {"a.jsonl": ROWS})
    upload_file(f"{s3_url}/b.jsonl", ROWS)
    source = DatasetSource.model_validate({"path": [str(tmp_path / "a.jsonl"), f"{s3_url}/b.jsonl"]})
    with pytest.raises(ConfigError, match=r"the files are in several places .*this machine.*; expected one: make"):
        resolve_dataset(source, tmp_path / "spec.yaml", 0)
