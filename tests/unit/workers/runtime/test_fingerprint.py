"""The fingerprint of a run: a worker rejects the run if a model file differs, and names the file."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.errors import ConfigError, IntegrityError, TransientError
from common.spec.models import ModelProfile
from common.storage.keys import fingerprint_key
from common.storage.store import Store, open_store
from tests.support.servers.openai_server import OpenAIServer, refuse, say_json, serve_openai
from workers.runtime import file_digests
from workers.runtime.file_digests import digest_files
from workers.runtime.fingerprint import ModelFingerprint, describe_model, list_model_files, settle_fingerprint

FILES = {
    "model-00001-of-00002.safetensors": b"first",
    "model-00002-of-00002.safetensors": b"second",
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"model",
    "merges.txt": b"a b",
    "preprocessor_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "modeling_own.py": b"pass",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlm-fleet" / "digests.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    for name, content in FILES.items():
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def describe(folder: Path, **options: Any) -> dict[str, str]:
    return describe_model(ModelProfile(name="some", engine="hf", engine_options=options), str(folder))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["rewritten", "same size and times", "removed"])
def test_changed_model_file_rejects_the_run(name: str, change: str, folder: Path, store: Store) -> None:
    settle_fingerprint(store, "run", before := describe(folder))
    settle_fingerprint(store, "run", before)
    path, times = folder / name, (folder / name).stat()
    if change == "removed":
        path.unlink()
    elif change == "rewritten":
        path.write_bytes(b"other content")
    else:
        path.write_bytes(b"x" * times.st_size)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    ours = describe(folder)
    with pytest.raises(ConfigError) as refused:
        settle_fingerprint(store, "run", ours)
    assert f"run run was started with another model: {name} is {before[name]} in the run" in str(refused.value)
    assert f"{ours.get(name, 'absent')} on this worker" in str(refused.value)


def test_files_that_engines_do_not_read_are_ignored(folder: Path) -> None:
    before = describe(folder)
    (folder / "README.md").write_text("changed")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in another format")
    assert describe(folder) == before
    assert "pytorch_model.bin" in describe(folder, load_format="pt")


def test_unchanged_model_is_read_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original: Callable[[Path], str] = file_digests._digest_file  # noqa: SLF001

    def record_read(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(file_digests, "_digest_file", record_read)
    first = describe(folder)
    assert describe(folder) == first
    assert sorted(read) == sorted(FILES)
    (folder / "config.json").write_text('{"changed": true}')
    assert describe(folder) != first
    assert read[len(FILES) :] == ["config.json"]
    cache.write_text("damaged")
    assert describe(folder).keys() == first.keys()
    assert len(read) == 2 * len(FILES) + 1


def test_hashing_of_large_files_is_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "_LOGGED_BYTES", 1)
    with capture_logs() as lines:
        describe(folder)
        describe(folder)
    assert [(line["event"], line["folder"]) for line in lines] == [("weights.hashing", str(folder))]


def test_workers_of_a_node_hash_a_model_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original: Callable[[Path], str] = file_digests._digest_file  # noqa: SLF001

    def record_read(path: Path) -> str:
        read.append(path)
        return original(path)

    monkeypatch.setattr(file_digests, "_digest_file", record_read)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: describe(folder), range(8)))
    assert all(one == found[0] for one in found)
    assert len(read) == len(FILES)


def test_concurrent_workers_store_one_fingerprint(store: Store) -> None:
    def settle(number: int) -> bool:
        try:
            settle_fingerprint(store, "run", {"config.json": str(number)})
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        settled = list(threads.map(settle, range(8)))
    assert settled.count(True) == 1
    assert json.loads(store.get(fingerprint_key("run"))) == {"config.json": str(settled.index(True))}


def test_cache_folder_may_be_unwritable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert set(describe(folder)) == set(FILES)


def test_large_files_of_hub_cache_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs" / ("0a" * 32)
    blob.write_bytes(b"weights")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert digest_files([link]) == {link: "0a" * 32}


def test_hub_model_has_fingerprint_of_its_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub" / "models--org--name"
    snapshot = hub / "snapshots" / ("c" * 40)
    for part in (hub / "blobs", hub / "refs", snapshot):
        part.mkdir(parents=True)
    (hub / "refs" / "main").write_text("c" * 40)
    for number, (name, digest) in enumerate(describe(folder).items()):
        blob = hub / "blobs" / (digest if name.endswith(".safetensors") else f"{number:040x}")
        blob.write_bytes(FILES[name])
        (snapshot / name).symlink_to(blob)
    profile = ModelProfile(name="some", engine="vllm", engine_options={"download_dir": str(tmp_path / "hub")})
    assert describe_model(profile, "org/name") == describe(folder)
    assert describe_model(profile, "org/other") == {}


def test_files_of_engine_options_are_included(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    profile = ModelProfile(name="some", engine="vllm", engine_options={"tokenizer": str(tmp_path / "tokenizer")})
    assert set(describe_model(profile, str(folder))) == {*FILES, "tokenizer/tokenizer.json"}


def test_echo_table_is_identified_by_content(tmp_path: Path) -> None:
    table = tmp_path / "table.yaml"
    table.write_text("rules: []")
    profile = ModelProfile(name="some", engine="echo", engine_options={"table": str(table)})
    before = describe_model(profile, "")
    table.write_text("rules: [{match: a}]")
    assert describe_model(profile, "") != before


def test_folder_is_hashed_once_during_loading(folder: Path) -> None:
    fingerprint = ModelFingerprint(ModelProfile(name="some", engine="hf"), str(folder))
    fingerprint.begin()
    first = fingerprint.read()
    (folder / "config.json").write_text("changed after the engine loaded it")
    assert fingerprint.read() is first


def test_unreadable_file_is_retried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = ModelFingerprint(ModelProfile(name="some", engine="hf"), str(folder))

    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(file_digests, "_digest_file", fail)
        with pytest.raises(TransientError, match=r"cannot be read: .*Input/output error"):
            fingerprint.read()
    assert set(fingerprint.read()) == set(FILES)


def test_damaged_fingerprint_is_an_integrity_error(store: Store) -> None:
    store.put(fingerprint_key("run"), b"[]")
    with pytest.raises(IntegrityError, match=r"runs/run/fingerprint\.json is not a valid fingerprint"):
        settle_fingerprint(store, "run", {})


def test_first_worker_stores_the_fingerprint(store: Store) -> None:
    settle_fingerprint(store, "run", {"config.json": "1"})
    with pytest.raises(ConfigError, match=r"config\.json \(and 1 more\) is 1 in the run and 2 on this worker"):
        settle_fingerprint(store, "run", {"config.json": "2", "model.safetensors": "3"})
    assert json.loads(store.get(fingerprint_key("run"))) == {"config.json": "1"}


def describe_endpoint(server: OpenAIServer) -> dict[str, str]:
    options = {"base_url": server.url, "api_key_env": None}
    return describe_model(ModelProfile(name="some", engine="openai", engine_options=options), "mine")


def test_endpoint_fingerprint_contains_reported_fields() -> None:
    models = [{"id": "other"}, {"id": "mine", "root": "/models/one", "created": 1, "max_model_len": 4096}]
    with serve_openai() as server:
        server.models = say_json({"data": models})
        expected = {"model": "mine", "model.id": "mine", "model.root": "/models/one", "model.max_model_len": "4096"}
        assert describe_endpoint(server) == expected


@pytest.mark.parametrize("reply", [say_json({"data": [{"id": "other"}]}), say_json(["no"]), refuse(404), refuse(500), refuse(401)])
def test_endpoint_without_report_is_identified_by_name(reply: Any) -> None:
    with serve_openai() as server:
        server.models = reply
        assert describe_endpoint(server) == {"model": "mine"}


def test_unavailable_endpoint_is_a_transient_error() -> None:
    with serve_openai() as server:
        server.models = refuse(503)
        with pytest.raises(TransientError, match="answers with status 503"):
            describe_endpoint(server)


def test_tiny_model_has_all_its_files() -> None:
    folder = Path(__file__).parents[4] / "examples" / "tiny" / "model"
    assert {path.name for path in list_model_files(folder)} == {path.name for path in folder.iterdir()}
