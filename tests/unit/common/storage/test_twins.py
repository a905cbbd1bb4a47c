"""The twins of a plan: blocks in plan order, which are checked before they are used."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IntegrityError
from common.records import Plan, Twin
from common.storage import twins as module
from common.storage.keys import twins_key
from common.storage.store import Store, open_store
from common.storage.twins import check_twins, open_twins, read_twins

NOTE = {"x": "y\u2028"}
TWINS = [(at, Twin(row=row, index=f"{row}", target=("日",), metadata=NOTE)) for at in (0, 3, 70_000) for row in (4, 9)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def write(store: Store, twins: list[tuple[int, Twin]]) -> Plan:
    """Write each twin as a block of its own."""
    with open_twins(store, "run") as writer:
        for position, twin in twins:
            writer.write(position, twin.model_dump_json().encode() + b"\n")
    return Plan(run_id="run", samples=0, chunks=0, datasets=(), twins_bytes=writer.length)


@pytest.mark.parametrize("read_bytes", [1, 50, 2**20])
def test_twins_are_read_back(store: Store, read_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_BYTES", read_bytes)
    plan = write(store, TWINS)
    check_twins(store, plan)
    assert list(read_twins(store, plan)) == TWINS


def test_plan_without_twins_has_no_object(store: Store) -> None:
    plan = write(store, [])
    check_twins(store, plan)
    assert list(read_twins(store, plan)) == []
    assert list(store.list_keys()) == []


def test_plan_of_an_earlier_version_has_no_object(store: Store) -> None:
    plan = Plan(run_id="run", samples=0, chunks=0, datasets=())
    check_twins(store, plan)
    assert list(read_twins(store, plan)) == []


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_missing_or_short_twins_are_found_by_the_check(store: Store, cut: int, tmp_path: Path) -> None:
    plan = write(store, TWINS)
    path = tmp_path / "store" / twins_key("run")
    path.write_bytes(path.read_bytes()[:-cut]) if cut else path.unlink()
    readers: list[Callable[[Store, Plan], object]] = [check_twins, lambda store, plan: list(read_twins(store, plan))]
    for read in readers:
        with pytest.raises(
            IntegrityError, match=r"w1\.twins\.jsonl of a planned run is missing or cut short .*enqueue the same spec"
        ):
            read(store, plan)


@given(st.data())
def test_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    plan = write(store, TWINS)
    content = bytearray(store.get(twins_key("run")))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    store.put(twins_key("run"), bytes(content))
    with pytest.raises(IntegrityError, match=r"w1\.twins\.jsonl of a planned run is damaged"):
        list(read_twins(store, plan))
