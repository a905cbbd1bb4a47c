"""Media in object storage: the limits, the allowed folders, the digests, and what ``producer inspect`` shows."""

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.digests import digest_bytes
from common.errors import ConfigError, FleetError, SampleError, TransientError
from common.records import Media
from common.settings import Settings
from common.spec.dataset_paths import resolve_dataset
from common.spec.media_roots import find_media_roots
from common.spec.models import DatasetSource
from common.storage import remote_files
from common.storage.store import open_store
from producer.datasets import media_files
from producer.datasets.survey import Survey, survey_dataset
from producer.planning.inspection import Inspection, find_source, inspect_dataset
from tests.support.faults.faulty_s3 import FaultyS3, answer, faulty_s3
from tests.support.media.pictures import make_png, write_files
from tests.support.servers.s3_server import upload_file, upload_folder
from workers.media import reader
from workers.media.files import MediaAccess
from workers.media.reader import read_media

__all__ = ["faulty_s3"]  # a fixture

CONTENT = bytes(range(200))


def fault_of(media: Media, *roots: str) -> tuple[str, str]:
    with pytest.raises(SampleError) as caught:
        read_media(media, MediaAccess(roots, urls=True, url_timeout_s=1))
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({}, CONTENT),
        ({"offset": 0, "length": 200}, CONTENT),
        ({"offset": 7, "length": 3}, CONTENT[7:10]),
        ({"offset": 190, "length": None}, CONTENT[190:]),
        ({"offset": 7, "length": 0}, b""),
    ],
)
def test_object_and_its_ranges_are_read(s3_url: str, place: dict[str, Any], expected: bytes) -> None:
    upload_file(f"{s3_url}/a b#%20.png", CONTENT)
    media = Media(uri=f"{s3_url}/x/../a b#%20.png", digest=digest_bytes(expected), **place)
    assert read_media(media, MediaAccess((s3_url,), urls=False, url_timeout_s=1)) == expected


def test_range_of_base64_is_decoded(s3_url: str) -> None:
    upload_file(f"{s3_url}/a.tsv", b"index\t" + base64.b64encode(CONTENT))
    length = len(base64.b64encode(CONTENT))
    media = Media(uri=f"{s3_url}/a.tsv", offset=6, length=length, encoding="base64", digest=digest_bytes(CONTENT))
    assert read_media(media, MediaAccess((s3_url,), urls=False, url_timeout_s=1)) == CONTENT


@pytest.mark.parametrize(
    ("place", "code", "message"),
    [
        ({"offset": 190, "length": 20}, "media_corrupt", "the file is 10 bytes too short for the range"),
        ({"offset": 300, "length": 1}, "media_corrupt", "the object ends before the range"),
        ({"offset": 300, "length": None}, "media_corrupt", "the object ends before the range"),
        ({"offset": 0, "length": 10**9}, "media_too_large", "it has 1000000000 bytes, but at most 150 are allowed"),
        ({}, "media_too_large", "it has 200 bytes, but at most 150 are allowed"),
        ({"offset": 10, "length": None}, "media_too_large", "it has 190 bytes, but at most 150 are allowed"),
    ],
)
def test_size_is_checked_before_the_content_is_read(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, place: dict[str, Any], code: str, message: str
) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 150)
    upload_file(f"{s3_url}/a.png", CONTENT)
    found = fault_of(Media(uri=f"{s3_url}/a.png", **place), s3_url)
    assert found[0] == code
    assert message in found[1]


def test_missing_bucket_is_missing_media(s3_url: str) -> None:
    assert fault_of(Media(uri="s3://no-such-bucket/a.png"), "s3://no-such-bucket") == (
        "media_missing",
        "s3://no-such-bucket/a.png: no such bucket; check the path in the dataset, or set media_root to the folder of the images",
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "InvalidAccessKeyId", ConfigError),
        (403, "RequestTimeTooSkewed", TransientError),
        (503, "SlowDown", TransientError),
    ],
)
def test_fault_of_the_worker_is_not_the_samples_fault(
    faulty_s3: FaultyS3, s3_url: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: type[FleetError]
) -> None:
    monkeypatch.setattr(remote_files, "open_store", partial(open_store, patience_s=0.2))
    upload_file(f"{s3_url}/a.png", CONTENT)
    faulty_s3.inject(answer(status, code))
    with pytest.raises(expected, match=code):
        read_media(Media(uri=f"{s3_url}/a.png"), MediaAccess((s3_url,), urls=False, url_timeout_s=1))


@pytest.mark.parametrize("ending", ["", "/", "/.", "/x/.."])
def test_list_of_a_bucket_is_not_read(s3_url: str, ending: str) -> None:
    bucket = s3_url.removesuffix("/root")
    upload_file(f"{bucket}/a.png", CONTENT)
    code, message = fault_of(Media(uri=f"{bucket}{ending}"), bucket)
    assert (code, "the address of a bucket, not of an object" in message) == ("media_unreadable", True)


@pytest.mark.parametrize("root", ["/", "s3://other", "{url}/folder", "{url}2"])
def test_address_outside_the_roots_is_forbidden(s3_url: str, root: str) -> None:
    upload_file(f"{s3_url}/a.png", CONTENT)
    code, message = fault_of(Media(uri=f"{s3_url}/folder/../a.png"), root.format(url=s3_url))
    assert code == "media_forbidden"
    assert f"outside the folders that media may be read from ({root.format(url=s3_url)})" in message


def test_local_path_is_forbidden_below_an_address(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": CONTENT})
    assert fault_of(Media(uri=str(tmp_path / "a.png")), "s3://bucket")[0] == "media_forbidden"


# The roots of a run.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/media", ("s3://bucket/media",)),
        ("/srv:s3://bucket/a/:GS://b:/data:", ("/srv", "s3://bucket/a", "gs://b", "/data")),
    ],
)
def test_operator_allows_addresses(text: str, expected: tuple[str, ...]) -> None:
    assert find_media_roots(Settings.model_validate({"media_roots": text}), []) == expected


def test_default_roots_are_the_folders_of_the_objects(s3_url: str) -> None:
    for name in ("a/1.jsonl", "b/2.jsonl"):
        upload_file(f"{s3_url}/{name}", b'{"question": "Q?"}')
    for name in ("one/x.png", "two.v2/x.png"):
        upload_file(f"{s3_url}/{name}", make_png())
    assert find_roots(f"{s3_url}/a/1.jsonl") == (f"{s3_url}/a",)
    assert find_roots(f"{s3_url}/a/1.jsonl", media_root="../images") == (f"{s3_url}/images", f"{s3_url}/a")
    assert find_roots(f"{s3_url}/*/*.jsonl") == (f"{s3_url}/a", f"{s3_url}/b")
    assert find_roots(f"{s3_url}/one") == (f"{s3_url}/one",)
    assert find_roots([f"{s3_url}/one", f"{s3_url}/two.v2"]) == (f"{s3_url}/one", f"{s3_url}/two.v2")


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize("folder", ["/one", ""])
def test_folder_with_another_media_root_is_a_root_itself(s3_url: str, folder: str, ending: str) -> None:
    upload_file(f"{s3_url}/one/x.png", make_png())
    path = f"{s3_url}{folder}"
    assert find_roots(f"{path}{ending}", media_root=f"{s3_url}/other") == (f"{s3_url}/other", path)


def find_roots(path: str | list[str], **fields: Any) -> tuple[str, ...]:
    source = DatasetSource.model_validate({"path": path, "name": "set", **fields})
    return find_media_roots(Settings.model_validate({"media_roots": ""}), [resolve_dataset(source, Path("/spec.yaml"), 0)])


# The digests of the content.


def survey(path: str, *roots: str, **fields: Any) -> Survey:
    return survey_dataset(resolve_dataset(DatasetSource.model_validate({"path": path, **fields}), Path("/spec.yaml"), 0), roots)


def write_rows(folder: Path, count: int = 3) -> None:
    rows = [{"question": f"Q{number}?", "image": f"{number}.png"} for number in range(count)]
    pictures = {f"{number}.png": make_png(size=number + 1) for number in range(count)}
    write_files(folder, {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows), **pictures})


@pytest.mark.parametrize("digest_media", ["auto", "always", "never"])
def test_limit_of_the_digests_is_the_local_limit(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch, digest_media: str
) -> None:
    monkeypatch.setattr(media_files, "MOST_FILES", 2)
    write_rows(tmp_path)
    upload_folder(tmp_path, s3_url)
    here, there = (survey(f"{root}/rows.jsonl", digest_media=digest_media).source for root in (str(tmp_path), s3_url))
    assert there.media_digest == here.media_digest
    assert (there.media_digest is not None) == (digest_media == "always")


def test_changed_object_changes_the_digest(tmp_path: Path, s3_url: str) -> None:
    write_rows(tmp_path)
    upload_folder(tmp_path, s3_url)
    before = survey(f"{s3_url}/rows.jsonl").source.media_digest
    upload_file(f"{s3_url}/1.png", make_png("blue", 2))
    assert survey(f"{s3_url}/rows.jsonl").source.media_digest not in (None, before)


def test_same_content_written_again_keeps_the_digest(tmp_path: Path, s3_url: str) -> None:
    write_rows(tmp_path)
    upload_folder(tmp_path, s3_url)
    before = survey(f"{s3_url}/rows.jsonl").source
    upload_folder(tmp_path, s3_url)
    assert survey(f"{s3_url}/rows.jsonl").source == before


def test_object_outside_the_roots_is_not_requested(tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row cannot make the producer use other buckets. Their names would also be looked up on the network."""
    rows = [
        {"question": "Q?", "image": "s3://other-bucket/a.png"},
        {"question": "Q2?", "image": "a.png", "shown": "s3://third/b.png"},
    ]
    write_files(tmp_path, {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "a.png": make_png()})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # no server listens on this port
    (notice,) = survey(str(tmp_path / "rows.jsonl"), str(tmp_path)).notices
    assert (notice.path, notice.rows) == ("s3://other-bucket/a.png", 1)
    inspected = inspect_dataset(find_source([str(tmp_path / "rows.jsonl")], None, []), most_rows=2)
    assert inspected.first_rows[0].media[0].problem == "a URL, which is not fetched"


# ``producer inspect``


def inspect(root: str, name: str) -> Inspection:
    return inspect_dataset(find_source([f"{root}/{name}"], None, []), most_rows=3)


@pytest.mark.parametrize("name", ["rows.jsonl", "photos", "*.jsonl"])
def test_inspection_equals_the_local_inspection(tmp_path: Path, s3_url: str, name: str) -> None:
    write_rows(tmp_path)
    write_files(tmp_path / "photos", {"a.png": make_png(), "b.png": make_png("blue"), "b.txt": "a caption"})
    upload_folder(tmp_path, s3_url)
    here, there = (inspect(root, name) for root in (str(tmp_path), s3_url))
    expected = here.model_dump_json().replace(str(tmp_path), s3_url)
    assert json.loads(there.model_dump_json()) | {"dataset": "", "lines": ""} == json.loads(expected) | {"dataset": "", "lines": ""}
    assert {header.width for row in there.first_rows for header in row.media} <= {1, 2, 3, 8}
    assert f"path: {s3_url}/{name}" in (there.lines or "").replace("'", "")
