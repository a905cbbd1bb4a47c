"""``workers check`` reports missing, truncated and damaged weights with advice."""

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.closed_folders import close_folder
from workers.doctor.finding import Finding
from workers.doctor.weights import check_folder, check_weights


def write_tensors(path: Path, *, size: int = 64) -> None:
    """Write a safetensors file with one tensor: header length, header and tensor bytes."""
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}, "__metadata__": {"format": "pt"}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the folder of a complete model whose weights are in two files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for number in (1, 2):
        write_tensors(folder / f"model-{number}.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_complete_model_is_reported_with_size(model: Path) -> None:
    assert check_folder(model) == Finding("weights", "ok", f"{model}: 2 files, 0.00 GiB")
    assert check_weights(str(model), None).level == "ok"


def damage_pointer(model: Path) -> None:
    (model / "model-1.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


def damage_tail(model: Path) -> None:
    path = model / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def damage_index(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text('{"weight_map": 3}')


def damage_header(model: Path) -> None:
    (model / "model-1.safetensors").write_bytes(struct.pack("<Q", 4) + b"nope")


def remove_weights(model: Path) -> None:
    for path in model.glob("model*"):
        path.unlink()


FAULTS: dict[str, Any] = {
    "1 of 2 files are missing, the first is model-2": lambda model: (model / "model-2.safetensors").unlink(),
    "is a Git LFS pointer": damage_pointer,
    "its header requires": damage_tail,
    "model.safetensors.index.json is damaged": damage_index,
    "has a damaged header": damage_header,
    "model-1.safetensors is cut short": lambda model: (model / "model-1.safetensors").write_bytes(b"abc"),
    "the folder does not contain weights": remove_weights,
    "config.json is missing": lambda model: (model / "config.json").unlink(),
    "pytorch_model.bin is empty": lambda model: (model / "pytorch_model.bin").touch(),
}


@pytest.mark.parametrize("message", FAULTS)
def test_incomplete_weights_are_reported_before_loading(model: Path, message: str) -> None:
    FAULTS[message](model)
    finding = check_folder(model)
    assert finding.level == "problem"
    assert message in finding.found
    assert finding.advice


def test_hub_weights_are_checked_only_in_cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    missing = check_weights("org/model", None)
    assert (missing.level, missing.advice) == ("warning", "download it first: hf download org/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = check_weights("org/model", "v2")
    assert offline.level == "problem"
    assert "hf download org/model --revision v2, then copy the cache" in offline.advice

    revision = "0" * 40
    snapshots = cache / "models--org--model" / "snapshots"
    snapshots.mkdir(parents=True)
    model.rename(snapshots / revision)
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text(revision)
    assert check_weights("org/model", None) == Finding("weights", "ok", "org/model in the cache: 2 files, 0.00 GiB")
    (snapshots / revision / "model-2.safetensors").unlink()
    incomplete = check_weights("org/model", None)
    assert (incomplete.level, incomplete.advice) == ("problem", "download it again: hf download org/model")
    pinned = check_weights("org/model", revision)
    assert (pinned.level, pinned.advice) == ("problem", f"download it again: hf download org/model --revision {revision}")
    other = check_weights("org/model", "v2")
    assert "hf download org/model --revision v2" in other.advice


def test_unreadable_folder_is_a_problem_with_advice(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_folder(monkeypatch, model.parent)
    finding = check_weights(str(model), None)
    assert finding == Finding("weights", "problem", f"{model}: cannot be read: Permission denied", finding.advice)
    assert "check the permissions" in finding.advice


def test_unreadable_cache_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "refs" / "main"))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    finding = check_weights("org/model", None)
    assert finding.level == "problem"
    assert "copy of org/model in the local cache cannot be read: Permission denied" in finding.found
    assert str(tmp_path) in finding.advice


def test_file_names_are_escaped_in_findings(model: Path) -> None:
    names = {"a": "model-1.safetensors", "b": "\x1b]0;owned\x07.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    found = check_folder(model).found
    assert r"\x1b]0;owned\x07.safetensors" in found
    assert found.isprintable()
