"""Faults of a store: wrong settings, outages, and disks that are full or read-only."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
import trustme

from common.errors import ConfigError, FleetError, ServiceUnreachable, TransientError
from common.storage.store import StoreClosed, StoreFull, open_store
from tests.support.faults.faulty_s3 import Fault, FaultyS3, answer, cut_answer, faulty_s3, lose_answer, lose_request
from tests.support.faults.small_disk import SmallDisk, small_disk
from tests.support.servers.tls_proxy import start_tls_proxy

__all__ = ["faulty_s3", "small_disk"]  # fixtures

MIB = 2**20


def test_missing_bucket_is_a_config_error(s3_url: str) -> None:
    store = open_store("s3://no-such-bucket/root")
    for operation in (store.probe, lambda: store.get("key"), lambda: list(store.list_keys())):
        with pytest.raises(ConfigError, match="NoSuchBucket"):
            operation()


def test_plain_http_requires_an_http_endpoint(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.storage.store._ENDPOINT_VARIABLES", ())
    with pytest.raises(ConfigError, match="builder error"):
        open_store(s3_url, patience_s=1).probe()


def test_unresponsive_store_is_unreachable(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret@127.0.0.1:9")  # no server listens on port 9 (discard)
    store = open_store(s3_url, patience_s=0.2)
    for operation in (store.probe, lambda: list(store.list_keys()), lambda: store.exists("key")):
        with pytest.raises(ServiceUnreachable) as caught:
            operation()
        assert s3_url in str(caught.value)
        assert "127.0.0.1:9" in str(caught.value)
        assert "secret" not in str(caught.value)


def test_absent_credentials_are_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys, the client requests credentials from the metadata service, which exists only on cloud machines."""

    def fail(*_: object, **__: object) -> None:
        raise obstore.exceptions.GenericError("Error performing PUT http://169.254.169.254/latest/api/token: error sending request")

    store = open_store(str(tmp_path))
    monkeypatch.setattr(obstore, "put", fail)
    with pytest.raises(ConfigError, match="no credentials found; set AWS_ACCESS_KEY_ID"):
        store.put("key", b"")


def test_unresolvable_host_is_unreachable(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid")
    with pytest.raises(ServiceUnreachable, match=r"the store does not answer: .*store\.invalid"):
        open_store(s3_url, patience_s=0.2).probe()


@pytest.mark.parametrize(
    ("not_after", "error", "words"),
    [
        (None, ConfigError, "cannot be verified .UnknownIssuer"),
        (datetime(2020, 1, 1, tzinfo=UTC), ServiceUnreachable, "out of date"),
    ],
    ids=["unknown authority", "expired"],
)
def test_only_expired_certificate_is_transient(
    s3_endpoint: str,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    not_after: datetime | None,
    error: type[FleetError],
    words: str,
) -> None:
    port = urlsplit(s3_endpoint).port
    assert port
    with start_tls_proxy(port, trustme.CA(), not_after=not_after) as tls_port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{tls_port}")
        with pytest.raises(error, match=f"the certificate of the store .*{words}"):
            open_store(s3_url, patience_s=0.2).probe()


@pytest.mark.parametrize("fault", [lose_request, lose_answer, cut_answer, answer(500, "InternalError"), answer(503, "SlowDown")])
def test_single_fault_is_retried(faulty_s3: FaultyS3, s3_url: str, fault: Fault) -> None:
    store = open_store(s3_url)
    for method in ("PUT", "GET", "HEAD"):
        faulty_s3.inject(fault, f"^{method} ", times=1)
    store.put("key", b"content")
    assert store.get("key") == b"content"
    assert store.exists("key")
    assert [asked.split()[0] for asked in faulty_s3.faulted] == ["PUT", "GET", "HEAD"]


def test_retries_continue_until_patience_ends(faulty_s3: FaultyS3, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.storage.store._LONGEST_PAUSE", timedelta(milliseconds=1))
    monkeypatch.setattr("common.storage.store._FIRST_PAUSE", timedelta(milliseconds=1))
    faulty_s3.inject(answer(503, "SlowDown"), times=50)
    open_store(s3_url, patience_s=60).put("key", b"content")
    assert len(faulty_s3.faulted) == 50


def test_interrupted_listing_yields_each_key_once(faulty_s3: FaultyS3, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    monkeypatch.setattr("common.storage.store._LIST_PAGE", 10)
    store = open_store(s3_url)
    keys = [f"many/{number:02}" for number in range(35)]
    for key in [*keys, "more"]:
        store.put(key, b"")
    listing = store.list_keys("many")
    first = [next(listing) for _ in range(15)]
    faulty_s3.inject(cut_answer, "list-type", times=2)
    assert first + list(listing) == keys
    assert len(faulty_s3.faulted) == 2


def test_put_new_with_lost_response_returns_false(faulty_s3: FaultyS3, s3_url: str) -> None:
    store = open_store(s3_url)
    faulty_s3.inject(lose_answer, "^PUT ", times=1)
    assert not store.put_new("key", b"ours")
    assert store.get("key") == b"ours"


def test_conflict_with_another_writer_is_transient(faulty_s3: FaultyS3, s3_url: str) -> None:
    store = open_store(s3_url, patience_s=0.2)
    faulty_s3.inject(answer(409, "OperationAborted"))
    for operation in (lambda: store.put("key", b""), lambda: store.get("key"), lambda: store.exists("key")):
        with pytest.raises(TransientError, match=r"409 Conflict"):
            operation()


def test_closed_and_full_store_differ_from_wrong_credentials(faulty_s3: FaultyS3, s3_url: str) -> None:
    store = open_store(s3_url, patience_s=0.2)
    faulty_s3.inject(answer(403, "AccessDenied"), "^PUT ")
    with pytest.raises(StoreClosed, match=f"{s3_url}: 'key': the store refuses the operation; nothing is lost .*AccessDenied"):
        store.put_new("key", b"")
    faulty_s3.clear_faults()
    faulty_s3.inject(answer(403, "SignatureDoesNotMatch"), "^PUT ")
    with pytest.raises(ConfigError, match=f"{s3_url}: 'key': the store refuses the request: .*SignatureDoesNotMatch"):
        store.put_new("key", b"")
    faulty_s3.clear_faults()
    faulty_s3.inject(answer(507, "XMinioStorageFull"), "^PUT ")
    with pytest.raises(StoreFull, match=f"{s3_url}: 'key': the store is full; make room"):
        store.put_new("key", b"")


def test_full_disk_stores_no_partial_object(small_disk: SmallDisk) -> None:
    store = open_store(str(small_disk.folder / "store"))
    store.put("older", b"o" * 5000)
    small_disk.fill()

    def write_big() -> None:
        with store.open_writer("big") as writer:
            writer.write(b"x" * 20 * MIB)

    for operation in (lambda: store.put_new("new", b"x"), lambda: store.put("older", b"x" * 5000), write_big, store.probe):
        with pytest.raises(StoreFull, match="the store is full; make room"):
            operation()
    assert list(store.list_keys()) == ["older"]
    assert store.get("older") == b"o" * 5000
    small_disk.make_room()
    assert store.put_new("new", b"x")


def test_read_only_disk_can_be_read(small_disk: SmallDisk) -> None:
    store = open_store(str(small_disk.folder / "store"))
    store.put("older", b"o")
    small_disk.forbid_writing()
    for operation in (lambda: store.put_new("new", b"x"), lambda: store.put("folder/new", b"x"), store.probe):
        with pytest.raises(StoreClosed, match=r"the store refuses the operation; nothing is lost .*Read-only file system"):
            operation()
    assert store.get("older") == b"o"
    small_disk.allow_writing()
    assert store.put_new("new", b"x")
