"""The reader reads media only below the allowed folders, for every kind of path."""

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
    return MediaAccess(tuple(map(str, roots)), urls=False, url_timeout_s=1)


def fault_of(uri: str | Path, access: MediaAccess) -> tuple[str, str]:
    with pytest.raises(SampleError) as caught:
        load_image(Media(uri=str(uri)), access)
    return caught.value.code, str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


# Allowed paths.


@pytest.mark.parametrize("way", ["a.png", "deep/er/a.png", "deep/../deep/er/a.png", "../allowed/deep/er/a.png"])
def test_file_below_a_root_is_read(root: Path, way: str) -> None:
    write_image(root / "a.png")
    write_image(root / "deep/er/a.png")
    assert load_image(Media(uri=f"{root}/{way}"), below(root)).size == SIZE
    assert load_image(Media(uri=f"file://{root}/{way}"), below(root.parent / "other", root)).size == SIZE


def test_symlinks_to_a_root_are_followed(root: Path, tmp_path: Path) -> None:
    image = write_image(root / "in/a.png")
    (tmp_path / "link").symlink_to(root)
    assert load_image(Media(uri=str(image)), below(tmp_path / "link")).size == SIZE
    assert load_image(Media(uri=str(tmp_path / "link/in/a.png")), below(root)).size == SIZE


def test_symlink_between_roots_is_followed(root: Path, tmp_path: Path) -> None:
    (root / "a.png").symlink_to(write_image(tmp_path / "second" / "b.png"))
    assert load_image(Media(uri=str(root / "a.png")), below(root, tmp_path / "second")).size == SIZE


def test_inline_media_is_read_without_roots(root: Path) -> None:
    data = "iVBORw0KGgo="  # the beginning of a PNG
    with pytest.raises(SampleError) as caught:
        load_image(Media(data=data), below())
    assert caught.value.code == "media_corrupt"  # the error comes from decoding, not from the folder check


# Forbidden paths.


@pytest.mark.parametrize(
    "way", ["outside.png", "allowed/../outside.png", "allowed/../allowed-not/a.png", "allowed/./../outside.png"]
)
def test_path_outside_roots_is_rejected_with_advice(root: Path, tmp_path: Path, way: str) -> None:
    write_image(tmp_path / "outside.png")
    write_image(tmp_path / "allowed-not" / "a.png")  # its name starts with the name of the root
    code, message = fault_of(f"{tmp_path}/{way}", below(root))
    assert code == "media_forbidden"
    for part in (f"{tmp_path}/{way}", str(root), "media_root", "FLEET_MEDIA_ROOTS"):
        assert part in message


@pytest.mark.parametrize("scheme", ["file://", "file://localhost", "FILE://"])
def test_file_uri_is_checked_like_a_path(root: Path, tmp_path: Path, scheme: str) -> None:
    outside = write_image(tmp_path / "outside.png")
    assert fault_of(f"{scheme}{outside}", below(root))[0] == "media_forbidden"
    assert fault_of(f"{scheme}{root}/%2e%2e/outside.png", below(root))[0] == "media_forbidden"


def test_symlink_out_of_root_is_rejected(root: Path, tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside" / "a.png")
    (root / "file.png").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    (root / "first.png").symlink_to("second.png")  # a chain of links
    (root / "second.png").symlink_to("../outside/a.png")
    for way in ("file.png", "folder/a.png", "first.png"):
        code, message = fault_of(root / way, below(root))
        assert code == "media_forbidden"
        assert str(outside.parent) not in message


def test_byte_range_outside_roots_is_rejected(root: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "rows.tsv"
    dataset.write_bytes(b"secret")
    media = Media(uri=str(dataset), offset=0, length=6)
    with pytest.raises(SampleError, match=r"rows\.tsv\[0:\+6\]: outside the folders") as caught:
        load_image(media, below(root))
    assert caught.value.code == "media_forbidden"


def test_error_does_not_reveal_whether_file_exists(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "outside.png"
    expected = fault_of(path, below(root))
    write_image(path)
    assert fault_of(path, below(root)) == expected
    path.unlink()
    path.mkdir()
    assert fault_of(path, below(root)) == expected


def test_every_path_is_rejected_without_roots(tmp_path: Path) -> None:
    code, message = fault_of(write_image(tmp_path / "a.png"), below())
    assert code == "media_forbidden"
    assert "(none)" in message


@pytest.mark.parametrize("way", ["a.png", "~/a.png", "../a.png", "\\a.png", "//etc/passwd", "/etc/passwd"])
def test_relative_and_home_paths_are_rejected(root: Path, way: str) -> None:
    assert fault_of(way, below(root))[0] == "media_forbidden"


def test_faults_below_a_root_keep_their_codes(root: Path) -> None:
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
        ("/proc/self/mem", "media_corrupt"),  # the kernel reports a size of 0 bytes, so nothing is read
        ("/proc/self/environ", "media_corrupt"),
        ("/proc/self/root/etc/passwd", "media_forbidden"),  # a symlink out of /proc
        ("/dev/fd/0/../../../etc/passwd", "media_forbidden"),
    ],
)
def test_device_and_kernel_files_are_not_read(path: str, code: str) -> None:
    assert fault_of(path, below(Path("/dev"), Path("/proc")))[0] == code


@pytest.mark.parametrize("swapped", ["in", "in/a.png"])
def test_symlink_created_after_check_is_not_followed(
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


def test_parent_folders_need_not_be_listable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_image(root / "in/a.png")
    opened: list[int] = []
    really_open = os.open

    def note(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        opened.append(flags)
        return really_open(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", note)
    assert load_image(Media(uri=str(image)), below(root)).size == SIZE
    assert all(flags & os.O_PATH for flags in opened[:-1])  # mode 0711 has no effect for root


# The roots of a run.


def make_settings(**fields: object) -> Settings:
    return Settings.model_validate(fields)


def make_source(path: str, media_root: str | None = None) -> DatasetSource:
    return DatasetSource(path=path, media_root=media_root)


def test_default_roots_are_the_dataset_folders() -> None:
    sources = [make_source("/data/a/rows.tsv", "/data/a"), make_source("/data/b/rows.jsonl", "/images")]
    access = find_access(make_settings(media_roots=""), sources)
    assert access.roots == ("/data/a", "/images", "/data/b")


def test_default_roots_cover_every_file_of_a_dataset() -> None:
    files = ("/data/a/1.jsonl", "/data/a/2.jsonl", "/data/b/1.jsonl")
    source = DatasetSource(path="/data", name="set", files=files)
    assert find_access(make_settings(media_roots=""), [source]).roots == ("/data/a", "/data/b")


def test_default_root_of_a_folder_is_the_folder() -> None:
    access = find_access(make_settings(media_roots=""), [make_source("/data/pictures", "/data/pictures")])
    assert access.roots == ("/data/pictures",)


def test_folders_of_a_dataset_do_not_allow_their_parent(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    source = DatasetSource(path=str(tmp_path / "*"), name="both", files=tuple(map(str, folders)))
    assert find_access(make_settings(media_roots=""), [source]).roots == tuple(map(str, folders))


def test_operator_roots_replace_run_roots() -> None:
    access = find_access(make_settings(media_roots="/srv/media:/scratch:"), [make_source("/data/rows.tsv", "/")])
    assert access.roots == ("/srv/media", "/scratch")


@pytest.mark.parametrize("text", ["images", "/srv:images", "~/images", "./", ":", "  "])
def test_relative_roots_are_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"FLEET_MEDIA_ROOTS: found .*; expected absolute paths of folders"):
        find_access(make_settings(media_roots=text), [])


def test_settings_control_url_access() -> None:
    off, on = make_settings(), make_settings(media_urls=True, media_url_timeout_s=7)
    assert (find_access(off, []).urls, find_access(on, []).urls, find_access(on, []).url_timeout_s) == (False, True, 7)
