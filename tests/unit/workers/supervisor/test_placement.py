"""Workers of ``workers start``: names, devices and presets of the slots of each model."""

import os
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError, EngineError
from common.settings import get_settings
from tests.support.hardware.fake_gpus import FakeGpu, fake_nvml
from workers.supervisor.notices import find_places
from workers.supervisor.placement import assign_slots, pair_models

CPU = f"cpu{os.getpid()}"


@pytest.fixture(autouse=True)
def _fake_gpus_and_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [FakeGpu(uuid=f"GPU-{number}") for number in range(4)])
    monkeypatch.setenv("FLEET_PROFILES_DIR", str(tmp_path))
    get_settings.cache_clear()
    for name, engine in (("a", "hf"), ("b", "vllm"), ("own", "my_package.my_engine:MyEngine")):
        write_profile(tmp_path, name, engine)


def write_profile(folder: Path, name: str, engine: str, **options: object) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "engine": engine, "engine_options": options}))


def name_slots(*pairs: tuple[str, str], replicas: int = 1) -> list[tuple[str, str, str]]:
    return [(one.model, one.slot.name, one.slot.devices) for one in assign_slots(pairs, replicas=replicas)]


def test_each_slot_is_named_for_its_gpus() -> None:
    assert name_slots(("b", "0,1+2,3")) == [("b", "gpu0", "0"), ("b", "gpu1+2", "1,2"), ("b", "gpu3", "3")]
    assert name_slots(("a", "none")) == [("a", CPU, "")]


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({"tensor_parallel_size": 2}, ["0,1", "2,3"]),
        ({"pipeline_parallel_size": 2}, ["0,1", "2,3"]),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, ["0,1,2,3"]),
        ({}, ["0", "1", "2", "3"]),
    ],
)
def test_gpus_all_groups_by_parallel_size(tmp_path: Path, options: dict[str, int], slots: list[str]) -> None:
    write_profile(tmp_path, "spans", "vllm", **options)
    assert [devices for _, _, devices in name_slots(("spans", "all"))] == slots


def test_gpus_all_groups_only_visible_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(tmp_path, "spans", "vllm", tensor_parallel_size=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert name_slots(("spans", "all")) == [("spans", "gpu2+3", "2,3")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match="--gpus all: 1 GPU cannot be divided into groups of 2"):
        assign_slots([("spans", "all")])


def test_other_engines_ignore_vllm_parallel_sizes(tmp_path: Path) -> None:
    write_profile(tmp_path, "own", "my_package.my_engine:MyEngine", tensor_parallel_size=2)
    assert [devices for _, _, devices in name_slots(("own", "all"))] == ["0", "1", "2", "3"]


def test_replicas_are_numbered_and_share_memory() -> None:
    assert name_slots(("b", "0,1+2"), replicas=2) == [
        ("b", "gpu0.1", "0"), ("b", "gpu0.2", "0"), ("b", "gpu1+2.1", "1,2"), ("b", "gpu1+2.2", "1,2"),
    ]  # fmt: skip
    shares = [one.preset.options["gpu_memory_utilization"] for one in assign_slots([("b", "0")], replicas=2)]
    assert shares == [0.46, 0.46]
    assert name_slots(("a", "none"), replicas=2) == [("a", f"{CPU}.1", ""), ("a", f"{CPU}.2", "")]


def test_gpus_are_read_from_the_slot_name() -> None:
    slots = assign_slots([("b", "0,1+2")], replicas=2)
    assert [find_places(one.slot.name) for one in slots] == [{"0"}, {"0"}, {"1", "2"}, {"1", "2"}]
    assert [find_places(one.slot.name) for one in assign_slots([("a", "none")], replicas=2)] == [{"cpu"}, {"cpu"}]


def test_models_have_separate_slots_with_unique_names() -> None:
    assert name_slots(("a", "0-1"), ("b", "2+3")) == [("a", "gpu0", "0"), ("a", "gpu1", "1"), ("b", "gpu2+3", "2,3")]
    assert name_slots(("a", "none"), ("b", "none")) == [("a", f"{CPU}.1", ""), ("b", f"{CPU}.2", "")]
    assert name_slots(("a", "none"), ("b", "0")) == [("a", CPU, ""), ("b", "gpu0", "0")]
    assert name_slots(("a", "0"), ("a", "1")) == [("a", "gpu0", "0"), ("a", "gpu1", "1")]


def test_slot_describes_its_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [FakeGpu(uuid=name, name=name) for name in ("L4", "L4", "H100")])
    assert [one.slot.gpu for one in assign_slots([("b", "0+1,2")])] == ["2 × L4", "H100"]
    assert [one.slot.gpu for one in assign_slots([("b", "0+1+2")])] == ["2 × L4, H100"]
    assert [one.slot.gpu for one in assign_slots([("b", "none")])] == [""]


def test_profile_path_of_the_user_is_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "a.yaml")
    (one,) = assign_slots([(path, "0")])
    assert (one.profile, one.model, one.preset.options) == (path, "a", {"max_batch_size": 16})
    (own,) = assign_slots([("own", "0+1")])
    assert own.preset.options == {}


@pytest.mark.parametrize("pairs", [[("a", "all"), ("b", "3")], [("b", "0,1+2"), ("a", "2")], [("a", "0"), ("a", "0")]])
def test_gpu_is_not_shared_by_two_models(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(ConfigError, match=r"GPU \d is given to . and to .; both would count its free memory as theirs"):
        assign_slots(pairs)


def test_invalid_assignments_are_rejected_before_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no-such-model"):
        assign_slots([("no-such-model", "0")])
    with pytest.raises(ConfigError, match="runs on one GPU"):
        assign_slots([("a", "0+1")])
    fake_nvml(monkeypatch, None)
    with pytest.raises(ConfigError, match="no NVIDIA driver found"):
        assign_slots([("a", "none"), ("b", "0")])
    assert name_slots(("a", "none")) == [("a", CPU, "")], "a slot without a GPU does not need a driver"
    fake_nvml(monkeypatch, "broken")
    with pytest.raises(EngineError, match="the NVIDIA driver fails"):
        assign_slots([("b", "0")])


def test_models_and_gpus_are_paired_by_position() -> None:
    assert pair_models(["a"], []) == [("a", "all")]
    assert pair_models(["a", "b"], ["0-1", "2,3"]) == [("a", "0-1"), ("b", "2,3")]


@pytest.mark.parametrize(("models", "gpus"), [(["a", "b"], []), (["a", "b"], ["all"]), (["a"], ["0", "1"])])
def test_unpaired_models_and_gpus_are_rejected(models: list[str], gpus: list[str]) -> None:
    with pytest.raises(ConfigError, match="--model A --gpus 0-1 --model B --gpus 2,3") as caught:
        pair_models(models, gpus)
    assert f"--model {len(models)} times and --gpus {len(gpus)} times" in str(caught.value)
