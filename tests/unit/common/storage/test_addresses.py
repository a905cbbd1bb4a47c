"""Addresses in object storage: their form, their parts, and the folders that contain them."""

from pathlib import Path

import pytest

from common.storage.addresses import is_below, is_remote, normalize_address, resolve_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://bucket/a", True),
        ("S3://bucket", True),
        ("gs://bucket/a", True),
        ("az://container/a", True),
        ("s3:///a", False),
        ("s3://", False),
        ("s3:/bucket/a", False),
        ("s3://user:secret@bucket/a", False),
        ("https://bucket/a", False),
        ("hf://org/name", False),
        ("/s3://bucket/a", False),
        ("rows.jsonl", False),
        ("", False),
    ],
)
def test_address_has_a_scheme_and_a_bucket(path: str, expected: bool) -> None:
    assert is_remote(path) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://Bucket/A/", "s3://Bucket/A"),
        ("s3://bucket//a/./b/../c", "s3://bucket/a/c"),
        ("s3://bucket/../../a", "s3://bucket/a"),
        ("s3://bucket/a b%20#?.png", "s3://bucket/a b%20#?.png"),
    ],
)
def test_address_is_normalized(address: str, expected: str) -> None:
    assert normalize_address(address) == expected


@pytest.mark.parametrize(
    ("address", "folder", "expected"),
    [
        ("s3://bucket/a/b", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/a/", True),
        ("s3://bucket/a/x/../b", "s3://bucket/a", True),
        ("s3://bucket/a/../b", "s3://bucket/a", False),
        ("s3://bucket/ab", "s3://bucket/a", False),
        ("s3://bucket/a", "s3://bucket", True),
        ("s3://bucket2/a", "s3://bucket", False),
        ("gs://bucket/a", "s3://bucket", False),
        ("s3://bucket/a", "/", False),
        ("/a", "s3://bucket", False),
    ],
)
def test_parent_steps_do_not_leave_a_folder(address: str, folder: str, expected: bool) -> None:
    assert is_below(address, folder) is expected


@pytest.mark.parametrize(
    ("folder", "path", "expected"),
    [
        ("s3://bucket/a", "b/c", "s3://bucket/a/b/c"),
        ("s3://bucket/a", "../b", "s3://bucket/b"),
        ("s3://bucket/a", "/data", "/data"),
        ("s3://bucket/a", "gs://other/b", "gs://other/b"),
        ("/data", "s3://bucket/./a", "s3://bucket/a"),
        (Path("/data"), "b/../c", "/data/c"),
        ("/data", "/other", "/other"),
    ],
)
def test_path_starts_at_its_folder(folder: Path | str, path: str, expected: str) -> None:
    assert resolve_path(folder, path) == expected
