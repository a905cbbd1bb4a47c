"""GPUs from NVML, limited by ``CUDA_VISIBLE_DEVICES`` and selected with ``--gpus``."""

import pytest

from common.errors import ConfigError, EngineError
from tests.support.hardware.fake_gpus import FakeGpu, fake_nvml, make_gpu
from workers.supervisor.gpus import (
    Driver,
    Gpu,
    GpuUser,
    list_gpus,
    list_usable_gpus,
    list_users,
    parse_gpus,
    pick_visible,
    read_driver,
)

GPUS = [make_gpu(index) for index in range(4)]


def parse_numbers(option: str, *, group_size: int = 1) -> list[list[int]]:
    return [[gpu.index for gpu in group] for group in parse_gpus(option, GPUS, group_size=group_size)]


@pytest.mark.parametrize(
    ("option", "slots"),
    [
        ("none", [[]]),
        ("all", [[0], [1], [2], [3]]),
        ("0", [[0]]),
        (" 3, 1 ", [[1], [3]]),
        ("02", [[2]]),
        ("0-3", [[0], [1], [2], [3]]),
        ("1-1", [[1]]),
        ("0,1+2,3", [[0], [1, 2], [3]]),
        ("3+1,0", [[0], [1, 3]]),
        ("2+0,1", [[0, 2], [1]]),
        ("0-1,2+3", [[0], [1], [2, 3]]),
        ("0+1+2+3", [[0, 1, 2, 3]]),
    ],
)
def test_gpus_option_becomes_slots_in_order(option: str, slots: list[list[int]]) -> None:
    assert parse_numbers(option) == slots


@pytest.mark.parametrize(("size", "slots"), [(1, [[0], [1], [2], [3]]), (2, [[0, 1], [2, 3]]), (4, [[0, 1, 2, 3]])])
def test_gpus_all_is_divided_into_adjacent_groups(size: int, slots: list[list[int]]) -> None:
    assert parse_numbers("all", group_size=size) == slots
    assert parse_numbers("0,1+2", group_size=size) == [[0], [1, 2]], "explicit groups are unchanged"
    assert parse_numbers("none", group_size=size) == [[]]


def test_gpus_all_is_sorted_by_number() -> None:
    groups = parse_gpus("all", [GPUS[3], GPUS[0], GPUS[2], GPUS[1]], group_size=2)
    assert [[gpu.index for gpu in group] for group in groups] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("count", "size", "message"), [(3, 2, "3 GPUs cannot"), (1, 4, "1 GPU cannot"), (4, 8, "4 GPUs cannot")])
def test_incomplete_groups_are_rejected_with_advice(count: int, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"--gpus all: {message} be divided into groups of {size}.*--gpus 0\+1"):
        parse_gpus("all", GPUS[:count], group_size=size)


@pytest.mark.parametrize(
    "option", ["", ",", "0,", "one", "-1", "0-", "0;1", "1.0", "²", "٣", "None", "0+", "+1", "0-1+2", "0--1", "1 + 2", "0-99999"]
)
def test_invalid_gpus_option_is_rejected(option: str) -> None:
    with pytest.raises(ConfigError, match=r"expected none, all, or GPU numbers such as 0, 0-3 or 0,1\+2,3") as caught:
        parse_gpus(option, GPUS)
    assert repr(option) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("3-1", "the range 3-1 is descending; write 1-3"),
        ("0,0", "GPU 0 is named twice.*--replicas"),
        ("1,01", "GPU 1 is named twice"),
        ("0-2,2", "GPU 2 is named twice"),
        ("1+1", "GPU 1 is named twice"),
        ("0,1+2,2+3", "GPU 2 is named twice"),
        ("0-7", r"GPU 4 is not one of the GPUs of this machine: 0 \(NVIDIA H100 80GB HBM3\), 1 .*, 3 \("),
        ("9", "GPU 9 is not one of the GPUs"),
    ],
)
def test_unusable_gpus_option_lists_available_gpus(monkeypatch: pytest.MonkeyPatch, option: str, message: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match=message):
        parse_gpus(option, GPUS)


def test_gpu_outside_visible_devices_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ConfigError, match=r"GPU 0 is not one of the GPUs that CUDA_VISIBLE_DEVICES=1 leaves: 1 \("):
        parse_gpus("0", [GPUS[1]])


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [
        ("2,0", [2, 0]),
        (" 1 ", [1]),
        ("GPU-1111-abcd,GPU-333", [1, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", [1]),
    ],
)
def test_visible_devices_are_parsed_like_cuda(visible: str, numbers: list[int]) -> None:
    assert [gpu.index for gpu in pick_visible(GPUS, visible)] == numbers


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ("7", r"'7' does not name exactly one GPU; the GPUs are: 0 \("),
        ("0,GPU-9", "'GPU-9' does not name exactly one GPU"),
        ("GPU-", "'GPU-' does not name exactly one GPU"),
        ("MIG-1111", r"slices of a GPU \(MIG\) are not supported"),
    ],
)
def test_unknown_visible_devices_are_rejected(visible: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        pick_visible(GPUS, visible)
    assert f"CUDA_VISIBLE_DEVICES={visible!r}" in str(caught.value)


def test_gpus_are_read_from_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [FakeGpu(uuid="GPU-a", pids=(7, 8)), FakeGpu(uuid="GPU-b", name="NVIDIA GB10", total=None, free=None, pids=None)]
    fake_nvml(monkeypatch, gpus)
    first, second = list_gpus()
    assert first == Gpu(0, "GPU-a", "NVIDIA H100 80GB HBM3", 80 * 2**30, 79 * 2**30)
    assert second == Gpu(1, "GPU-b", "NVIDIA GB10", None, None)
    assert list_users(first) == [GpuUser(7, None), GpuUser(8, None)]
    assert list_users(second) == []
    assert read_driver() == Driver("580.82.07", "13.2")


def test_inaccessible_gpus_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA also does not number inaccessible GPUs."""
    fake_nvml(monkeypatch, [None, FakeGpu(uuid="GPU-b"), None, FakeGpu(uuid="GPU-d")])
    assert [(gpu.index, gpu.uuid) for gpu in list_gpus()] == [(0, "GPU-b"), (1, "GPU-d")]


def test_visible_devices_limit_the_usable_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [FakeGpu(uuid=f"GPU-{letter}") for letter in "abc"])
    assert [gpu.index for gpu in list_usable_gpus()] == [0, 1, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-c,0")
    assert [gpu.index for gpu in list_usable_gpus()] == [2, 0]


@pytest.mark.parametrize(
    ("gpus", "visible", "message"),
    [
        (None, None, "no NVIDIA driver found here.*NVIDIA_DRIVER_CAPABILITIES"),
        ([], None, "the NVIDIA driver shows no GPU"),
        ([FakeGpu()], "", "CUDA_VISIBLE_DEVICES='' leaves no usable GPU"),
    ],
)
def test_missing_gpu_error_gives_advice(
    monkeypatch: pytest.MonkeyPatch, gpus: list[FakeGpu | None] | str | None, visible: str | None, message: str
) -> None:
    fake_nvml(monkeypatch, gpus)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=message) as caught:
        list_usable_gpus()
    assert "--gpus none" in str(caught.value)


def test_driver_failure_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, "broken")
    for ask in (list_gpus, list_usable_gpus, read_driver, lambda: list_users(GPUS[0])):
        with pytest.raises(EngineError, match=r"the NVIDIA driver fails: Driver Not Loaded; check it with nvidia-smi.*--gpus none"):
            ask()
