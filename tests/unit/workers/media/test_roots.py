"""Folders that media may be read from: nothing outside of them, by no way in."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from common.errors import ConfigError, SampleError
from common.records import Media
from common.settings import Settings
from common.spec.models import DatasetSource
from tests.support.media.media import load_image
from workers.media.files import MediaAccess, find_access

SIZE = (3, 2)


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.new("RGB", SIZE, "red").save(stream, "PNG")
    path.write_bytes(stream.getvalue())
    return path


def below(*roots: Path) -> MediaAccess:
    return MediaAccess(roots, urls=False, url_timeout_s=1)


def fault_of(uri: str | Path, access: MediaAccess) -> tuple[str, str]:
    with pytest.raises(SampleError) as caught:
        load_image(Media(uri=str(uri)), access)
    return caught.value.code, str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


# What may be read.


@pytest.mark.parametrize("way", ["a.png", "deep/er/a.png", "deep/../deep/er/a.png", "../allowed/deep/er/a.png"])
def test_a_file_below_a_root_is_read(root: Path, way: str) -> None:
    write_image(root / "a.png")
    write_image(root / "deep/er/a.png")
    assert load_image(Media(uri=f"{root}/{way}"), below(root)).size == SIZE
    assert load_image(Media(uri=f"file://{root}/{way}"), below(root.parent / "other", root)).size == SIZE


def test_a_root_may_be_a_link_and_so_may_the_way_to_it(root: Path, tmp_path: Path) -> None:
    image = write_image(root / "in/a.png")
    (tmp_path / "link").symlink_to(root)
    assert load_image(Media(uri=str(image)), below(tmp_path / "link")).size == SIZE
    assert load_image(Media(uri=str(tmp_path / "link/in/a.png")), below(root)).size == SIZE


def test_a_link_from_one_root_into_another_is_followed(root: Path, tmp_path: Path) -> None:
    (root / "a.png").symlink_to(write_image(tmp_path / "second" / "b.png"))
    assert load_image(Media(uri=str(root / "a.png")), below(root, tmp_path / "second")).size == SIZE


def test_inline_media_need_no_root(root: Path) -> None:
    data = "iVBORw0KGgo="  # the beginning of a PNG
    with pytest.raises(SampleError) as caught:
        load_image(Media(data=data), below())
    assert caught.value.code == "media_corrupt"  # it was decoded


# What may not.


@pytest.mark.parametrize(
    "way", ["outside.png", "allowed/../outside.png", "allowed/../allowed-not/a.png", "allowed/./../outside.png"]
)
def test_a_path_out_of_the_roots_is_refused_and_says_what_to_do(root: Path, tmp_path: Path, way: str) -> None:
    write_image(tmp_path / "outside.png")
    write_image(tmp_path / "allowed-not" / "a.png")  # begins like the root's name
    code, message = fault_of(f"{tmp_path}/{way}", below(root))
    assert code == "media_forbidden"
    for part in (f"{tmp_path}/{way}", str(root), "media_root", "FLEET_MEDIA_ROOTS"):
        assert part in message


@pytest.mark.parametrize("scheme", ["file://", "file://localhost", "FILE://"])
def test_a_file_uri_is_a_path_like_any_other(root: Path, tmp_path: Path, scheme: str) -> None:
    outside = write_image(tmp_path / "outside.png")
    assert fault_of(f"{scheme}{outside}", below(root))[0] == "media_forbidden"
    assert fault_of(f"{scheme}{root}/%2e%2e/outside.png", below(root))[0] == "media_forbidden"


def test_a_link_out_of_a_root_is_refused(root: Path, tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside" / "a.png")
    (root / "file.png").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    (root / "first.png").symlink_to("second.png")  # a chain of links
    (root / "second.png").symlink_to("../outside/a.png")
    for way in ("file.png", "folder/a.png", "first.png"):
        code, message = fault_of(root / way, below(root))
        assert code == "media_forbidden"
        assert str(outside.parent) not in message


def test_a_byte_range_out_of_the_roots_is_refused(root: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "rows.tsv"
    dataset.write_bytes(b"secret")
    media = Media(uri=str(dataset), offset=0, length=6)
    with pytest.raises(SampleError, match=r"rows\.tsv\[0:\+6\]: outside the folders") as caught:
        load_image(media, below(root))
    assert caught.value.code == "media_forbidden"


def test_the_message_does_not_tell_whether_a_forbidden_file_exists(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "outside.png"
    unseen = fault_of(path, below(root))
    write_image(path)
    assert fault_of(path, below(root)) == unseen
    path.unlink()
    path.mkdir()
    assert fault_of(path, below(root)) == unseen


def test_without_roots_no_path_is_read(tmp_path: Path) -> None:
    code, message = fault_of(write_image(tmp_path / "a.png"), below())
    assert code == "media_forbidden"
    assert "(none)" in message


@pytest.mark.parametrize("way", ["a.png", "~/a.png", "../a.png", "\\a.png", "//etc/passwd", "/etc/passwd"])
def test_paths_that_start_elsewhere_are_refused(root: Path, way: str) -> None:
    assert fault_of(way, below(root))[0] == "media_forbidden"


def test_below_a_root_the_old_faults_remain(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "file").touch()
    (root / "loop").symlink_to("loop")
    assert fault_of(root / "gone.png", below(root))[0] == "media_missing"
    assert fault_of(root / "gone" / "a.png", below(root))[0] == "media_missing"
    assert fault_of(root / "file", below(root))[0] == "media_corrupt"
    for way in (".", "", "pipe", "a\0b", "x" * 300, "file/in it", "loop"):
        assert fault_of(f"{root}/{way}", below(root))[0] == "media_unreadable"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/dev/zero", "media_unreadable"),
        ("/proc/self/mem", "media_corrupt"),  # the kernel says that it has 0 bytes: nothing of it is read
        ("/proc/self/environ", "media_corrupt"),
        ("/proc/self/root/etc/passwd", "media_forbidden"),  # a link out of /proc
        ("/dev/fd/0/../../../etc/passwd", "media_forbidden"),
    ],
)
def test_devices_and_the_kernels_files_give_nothing_away(path: str, code: str) -> None:
    assert fault_of(path, below(Path("/dev"), Path("/proc")))[0] == code


@pytest.mark.parametrize("swapped", ["in", "in/a.png"])
def test_a_link_that_is_put_in_after_the_check_is_not_followed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    image = write_image(root / "in/a.png")
    write_image(tmp_path / "outside/in/a.png")
    resolve = os.path.realpath

    def resolve_then_swap(path: Path, *, strict: bool = False) -> str:
        resolved = resolve(path, strict=strict)
        if path == image:
            (root / swapped).rename(root / "old")
            (root / swapped).symlink_to(tmp_path / "outside" / swapped)
        return resolved

    monkeypatch.setattr(os.path, "realpath", resolve_then_swap)
    assert fault_of(image, below(root))[0] == "media_unreadable"


def test_folders_on_the_way_need_not_be_listable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_image(root / "in/a.png")
    asked: list[int] = []
    really_open = os.open

    def note(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        asked.append(flags)
        return really_open(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", note)
    assert load_image(Media(uri=str(image)), below(root)).size == SIZE
    assert all(flags & os.O_PATH for flags in asked[:-1])  # root lists any folder, so a mode of 0711 would prove nothing


# Which folders those are.


def make_settings(**fields: object) -> Settings:
    return Settings.model_validate(fields)


def make_source(path: str, media_root: str | None = None) -> DatasetSource:
    return DatasetSource(path=path, media_root=media_root)


def test_by_default_the_folders_of_the_runs_datasets_are_the_roots() -> None:
    sources = [make_source("/data/a/rows.tsv", "/data/a"), make_source("/data/b/rows.jsonl", "/images")]
    access = find_access(make_settings(media_roots=""), sources)
    assert access.roots == (Path("/data/a"), Path("/images"), Path("/data/b"))


def test_the_operators_roots_replace_those_of_the_run() -> None:
    access = find_access(make_settings(media_roots="/srv/media:/scratch:"), [make_source("/data/rows.tsv", "/")])
    assert access.roots == (Path("/srv/media"), Path("/scratch"))


@pytest.mark.parametrize("text", ["images", "/srv:images", "~/images", "./", ":", "  "])
def test_roots_that_are_not_absolute_folders_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"FLEET_MEDIA_ROOTS: found .*; expected absolute folders"):
        find_access(make_settings(media_roots=text), [])


def test_addresses_are_as_the_settings_say() -> None:
    off, on = make_settings(), make_settings(media_urls=True, media_url_timeout_s=7)
    assert (find_access(off, []).urls, find_access(on, []).urls, find_access(on, []).url_timeout_s) == (False, True, 7)
