"""The contract of every store, tested on a local folder and on S3."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest

from common.errors import ConfigError, FleetError, IntegrityError
from common.exit_codes import UNREACHABLE, USER_MUST_ACT
from common.storage.store import MissingObject, Store, StoreClosed, StoreFull, open_store
from common.storage.store_errors import check_folder

RACERS = 8
MIB = 2**20


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"file://{tmp_path}/a store"
    url: str = request.getfixturevalue("s3_url")
    return url


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url, patience_s=5)


def test_stored_object_is_read_back_unchanged(store: Store) -> None:
    for content in (b"", b"\x00\xff", os.urandom(6 * MIB)):
        store.put("runs/a/one.bin", content)
        assert store.get("runs/a/one.bin") == content


def test_put_replaces_object_and_put_new_keeps_it(store: Store) -> None:
    assert store.put_new("key", b"first")
    assert not store.put_new("key", b"second")
    assert store.get("key") == b"first"
    store.put("key", b"third")
    assert store.get("key") == b"third"


@pytest.mark.parametrize("size", [100, 6 * MIB], ids=["small", "larger than one upload part"])
def test_exactly_one_concurrent_put_new_succeeds(store: Store, size: int) -> None:
    contents = [bytes([racer]) * size for racer in range(RACERS)]
    for race in range(5 if size < MIB else 1):
        start = threading.Barrier(RACERS)

        def create(racer: int, key: str = f"race/{race}", start: threading.Barrier = start) -> bool:
            start.wait()
            return store.put_new(key, contents[racer])

        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(create, range(RACERS)))
        assert won.count(True) == 1
        assert store.get(f"race/{race}") == contents[won.index(True)]


def test_put_new_retries_conflict_without_object(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real_put, conflicts = obstore.put, [obstore.exceptions.AlreadyExistsError("409 ConditionalRequestConflict")]

    def put_with_a_conflict(*arguments: Any, **options: Any) -> Any:
        if conflicts:
            raise conflicts.pop()
        return real_put(*arguments, **options)

    monkeypatch.setattr(obstore, "put", put_with_a_conflict)
    assert store.put_new("key", b"content")
    assert store.get("key") == b"content"


def test_range_read_returns_exactly_the_requested_bytes(store: Store) -> None:
    store.put("key", b"0123456789")
    assert store.get_range("key", 3, 4) == b"3456"
    assert store.get_range("key", 9, 1) == b"9"
    assert store.get_range("key", 5, 0) == b""


@pytest.mark.parametrize(("offset", "length"), [(8, 3), (10, 1), (50, 2)])
def test_range_outside_the_object_is_rejected(store: Store, offset: int, length: int) -> None:
    store.put("key", b"0123456789")
    with pytest.raises(IntegrityError, match="'key'"):
        store.get_range("key", offset, length)


def test_missing_object_error_names_its_key(store: Store) -> None:
    store.put("folder/key", b"")
    for key in ("nothing", "folder", "folder/nothing"):
        assert not store.exists(key)
        with pytest.raises(MissingObject, match=f"'{key}'"):
            store.get(key)
        with pytest.raises(MissingObject, match=f"'{key}'"):
            store.get_range(key, 0, 1)
    assert store.exists("folder/key")


def test_list_keys_yields_each_key_once(store: Store) -> None:
    inside = {f"runs/a/parts/{number:03}.parquet" for number in range(25)} | {"runs/a/run.json"}
    for key in inside | {"runs/ab/run.json", "other"}:
        store.put(key, b"x")
    for prefix in ("runs/a", "runs/a/"):
        found = list(store.list_keys(prefix))
        assert len(found) == len(inside)
        assert set(found) == inside
    assert set(store.list_keys()) == inside | {"runs/ab/run.json", "other"}
    assert list(store.list_keys("nowhere")) == []


def test_list_keys_reads_pages_as_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    monkeypatch.setattr("common.storage.store._LIST_PAGE", 10)
    keys = {f"many/{number}" for number in range(35)}
    for key in keys:
        store.put(key, b"")
    pages_read = _count_pages(monkeypatch)
    listing = store.list_keys("many")
    first = {next(listing) for _ in range(5)}
    assert len(pages_read) == 1
    assert first | set(listing) == keys
    assert len(pages_read) == 4


def _count_pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that records the size of each page read from obstore."""
    sizes: list[int] = []
    real_list = obstore.list

    def count(*arguments: Any, **options: Any) -> Iterator[Any]:
        for page in real_list(*arguments, **options):
            sizes.append(len(page))
            yield page

    monkeypatch.setattr(obstore, "list", count)
    return sizes


@pytest.mark.parametrize("pieces", [0, 1, 3, 40], ids=["nothing", "one piece", "one buffer", "several uploads"])
def test_writer_publishes_object_on_close(store: Store, pieces: int) -> None:
    piece = os.urandom(512 * 1024)
    with store.open_writer("big/object") as writer:
        for _ in range(pieces):
            writer.write(piece)
        assert not store.exists("big/object")
    assert store.get("big/object") == piece * pieces


@pytest.mark.parametrize("pieces", [0, 1, 40])
def test_failed_writer_leaves_no_object(store: Store, pieces: int) -> None:
    def write_and_fail() -> None:
        with store.open_writer("big/object") as writer:
            for _ in range(pieces):
                writer.write(b"x" * 512 * 1024)
            raise FileNotFoundError("the dataset does not exist")

    with pytest.raises(FileNotFoundError, match="the dataset does not exist"):
        write_and_fail()
    assert not store.exists("big/object")
    assert list(store.list_keys()) == []


def test_failed_writer_keeps_the_existing_object(store: Store) -> None:
    store.put("key", b"older")
    with pytest.raises(RuntimeError), store.open_writer("key") as writer:  # noqa: PT012  # the test needs both statements
        writer.write(b"x" * 20 * MIB)
        raise RuntimeError
    assert store.get("key") == b"older"


def test_probe_passes_and_leaves_no_object(store: Store) -> None:
    assert store.probe().url == store.url
    assert list(store.list_keys()) == []


def test_probe_rejects_store_that_ignores_conditions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real_put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda client, key, content, **_: real_put(client, key, content))
    with pytest.raises(ConfigError, match="ignores conditional puts"):
        store.probe()
    assert list(store.list_keys()) == []


@pytest.mark.parametrize("key", ["../outside", "a//b", "a/../b"])
def test_key_outside_the_root_is_rejected(store: Store, key: str) -> None:
    with pytest.raises(ConfigError, match="refuses"):
        store.put(key, b"")


def test_local_store_accepts_three_url_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"file://{tmp_path}/.fleet/store", "file://.fleet/store", ".fleet/store"):
        open_store(url).put_new("folder/key", url.encode())
    assert (tmp_path / ".fleet/store/folder/key").read_text() == f"file://{tmp_path}/.fleet/store"


def test_error_names_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/store: cannot create this folder"):
        open_store(f"{tmp_path}/file/store")


def test_folder_is_created_only_on_request(tmp_path: Path) -> None:
    with pytest.raises(
        StoreClosed, match=r"store: the folder does not exist; nothing is lost.*mount.*FLEET_STORE_URL.*producer enqueue"
    ):
        open_store(f"{tmp_path}/store", create=False)
    assert not (tmp_path / "store").exists()
    open_store(f"{tmp_path}/store")
    open_store(f"{tmp_path}/store", create=False).probe()


def test_folder_that_disappears_is_not_created_again(tmp_path: Path) -> None:
    """Objects written to an unmounted folder would be hidden after its file system is mounted again."""
    store = open_store(f"{tmp_path}/store")
    store.put("runs/a/key", b"content")
    (tmp_path / "store").rename(tmp_path / "away")
    operations: list[Callable[[], object]] = [
        lambda: store.put("key", b""),
        lambda: store.put_new("key", b""),
        lambda: store.get("runs/a/key"),
        lambda: store.get_range("runs/a/key", 0, 1),
        lambda: store.exists("runs/a/key"),
        lambda: list(store.list_keys()),
        lambda: store.open_writer("key").__enter__(),
        store.probe,
    ]
    for operation in operations:
        with pytest.raises(StoreClosed, match="the folder does not exist"):
            operation()
    assert not (tmp_path / "store").exists()
    (tmp_path / "away").rename(tmp_path / "store")
    assert list(store.list_keys()) == ["runs/a/key"]


@pytest.mark.parametrize("operation", ["get", "get_range", "exists", "list_keys"])
def test_folder_that_vanishes_during_a_read_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """A run must not be paused because its objects seem to be missing."""
    store = open_store(str(tmp_path / "store"))
    store.put("runs/key", b"content")
    checks: list[Path] = []

    def check_and_move(folder: Path) -> None:
        check_folder(folder)
        if not checks:
            folder.rename(tmp_path / "away")
        checks.append(folder)

    monkeypatch.setattr("common.storage.store.check_folder", check_and_move)
    operations: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("runs/key"),
        "get_range": lambda: store.get_range("runs/key", 0, 3),
        "exists": lambda: store.exists("runs/key"),
        "list_keys": lambda: list(store.list_keys("runs")),
    }
    with pytest.raises(StoreClosed, match="the folder does not exist"):
        operations[operation]()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        *((code, StoreClosed) for code in ("EACCES", "EPERM", "EROFS", "ESTALE", "ENOTCONN", "EIO", "EHOSTDOWN", "ETIMEDOUT")),
        *((code, StoreFull) for code in ("ENOSPC", "EDQUOT")),
        *((code, ConfigError) for code in ("EEXIST", "ENOTDIR", "ENAMETOOLONG", "ELOOP", "EINVAL")),
    ],
)
def test_folder_fault_is_transient_unless_path_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: type[FleetError]
) -> None:
    number: int = getattr(errno, code)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for create, method in ((True, "mkdir"), (False, "stat")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, fail)
            with pytest.raises(error, match=os.strerror(number)) as caught:
                open_store(f"{tmp_path}/store", create=create)
        assert caught.value.exit_code == (USER_MUST_ACT if error is ConfigError else UNREACHABLE)


def test_unknown_scheme_error_lists_known_schemes() -> None:
    with pytest.raises(ConfigError, match=r"'ftp'.*file://, s3://, gs://, az://"):
        open_store("ftp://user:secret@host/folder")
