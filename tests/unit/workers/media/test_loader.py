"""The loader decodes media ahead of the engine in order, within its threads and memory, and returns each share."""

import asyncio
import base64
import io
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.errors import SampleError
from common.records import Media
from tests.support.media.media import AS_IS
from tests.support.media.videos import encode_video, read_number
from workers.media import loader as media_loader
from workers.media.files import MediaAccess
from workers.media.loader import Decoded, MediaLoader
from workers.media.reader import OpenedMedia, open_media

NO_FILES = MediaAccess((), urls=False, url_timeout_s=1)
AMPLE_BYTES = 2**30
SIDE = 64
IMAGE_BYTES = 4 * SIDE * SIDE
DEADLINE_S = 30.0


def make_media(width: int = SIDE) -> Media:
    stream = io.BytesIO()
    Image.new("RGB", (width, SIDE), "red").save(stream, "PNG")
    return Media(data=base64.b64encode(stream.getvalue()).decode())


BROKEN = Media(data="AAAA")
PEAK_BYTES = open_media(make_media(), NO_FILES, AS_IS).peak_bytes


def hold(loader: MediaLoader, *media: Media) -> AbstractAsyncContextManager[Decoded]:
    return loader.hold(media, NO_FILES, AS_IS)


def run_loader(work: Callable[[MediaLoader], Awaitable[None]], *, memory_bytes: int = AMPLE_BYTES, threads: int = 2) -> MediaLoader:
    """Run a coroutine with a loader. Check that the whole budget is free afterwards."""

    async def run() -> MediaLoader:
        loader = MediaLoader(threads, memory_bytes)
        async with asyncio.timeout(DEADLINE_S):
            await work(loader)
            await asyncio.to_thread(loader.stop)
            await asyncio.sleep(0)
        assert loader.budget.free_bytes == memory_bytes
        return loader

    return asyncio.run(run())


class Gate:
    """Block decoding threads until the gate opens. Count the blocked threads."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.arrived = threading.Semaphore(0)

    def wait(self) -> None:
        self.arrived.release()
        assert self.is_open.wait(DEADLINE_S)

    async def wait_for(self, threads: int) -> None:
        for _ in range(threads):
            assert await asyncio.to_thread(self.arrived.acquire, timeout=DEADLINE_S)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, decode = Gate(), media_loader._decode  # noqa: SLF001  # the gate wraps this function

    def decode_later(opened: list[OpenedMedia]) -> Decoded:
        gate.wait()
        return decode(opened)

    monkeypatch.setattr(media_loader, "_decode", decode_later)
    yield gate
    gate.is_open.set()


def test_images_are_ordered_and_count_against_budget() -> None:
    async def work(loader: MediaLoader) -> None:
        async with hold(loader, make_media(8), make_media(9), make_media(10)) as decoded:
            assert [image.width for (image,) in decoded] == [8, 9, 10]
            assert AMPLE_BYTES - loader.budget.free_bytes == 4 * (8 + 9 + 10) * SIDE

    run_loader(work)


def test_sample_without_media_does_not_wait() -> None:
    async def work(loader: MediaLoader) -> None:
        async with hold(loader, make_media()), hold(loader) as images:
            assert images == ()

    run_loader(work, memory_bytes=1, threads=1)


def test_video_frames_keep_the_video_position() -> None:
    video = Media(kind="video", data=base64.b64encode(encode_video(3)).decode())

    async def work(loader: MediaLoader) -> None:
        async with hold(loader, make_media(8), video, make_media(9)) as ((first,), frames, (last,)):
            assert (first.width, last.width) == (8, 9)
            assert [read_number(image) for image in frames] == [0, 1, 2]

    run_loader(work)


@pytest.mark.parametrize("media", [(BROKEN,), (make_media(), BROKEN), (BROKEN, make_media()), (make_media(), Media())])
def test_media_fault_returns_the_share(media: tuple[Media, ...]) -> None:
    async def work(loader: MediaLoader) -> None:
        for _ in range(5):
            with pytest.raises(SampleError):
                async with hold(loader, *media):
                    pytest.fail("the loader returned invalid media")

    run_loader(work, memory_bytes=2 * PEAK_BYTES, threads=1)


def test_decoding_fault_returns_the_share() -> None:
    stream = io.BytesIO()
    Image.effect_noise((SIDE, SIDE), 90).save(stream, "PNG")
    cut = Media(data=base64.b64encode(stream.getvalue()[:-900]).decode())

    async def work(loader: MediaLoader) -> None:
        with pytest.raises(SampleError, match="cannot be decoded"):
            async with hold(loader, make_media(), cut):
                pytest.fail("the loader returned invalid media")

    run_loader(work)


def test_exception_in_the_block_returns_the_share() -> None:
    async def work(loader: MediaLoader) -> None:
        with pytest.raises(RuntimeError, match="odd"):
            async with hold(loader, make_media()):
                raise RuntimeError("odd")

    run_loader(work)


def test_decoding_is_ordered_and_within_budget() -> None:
    started: list[int] = []
    answers = asyncio.Semaphore(0)

    async def ask(loader: MediaLoader, number: int) -> None:
        async with hold(loader, make_media()):
            started.append(number)
            await answers.acquire()

    async def work(loader: MediaLoader) -> None:
        tasks = [asyncio.create_task(ask(loader, number)) for number in range(20)]
        for answered in range(15):
            while len(started) < answered + 5:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            assert len(started) == answered + 5
            assert loader.budget.free_bytes == PEAK_BYTES - IMAGE_BYTES, "less than the next sample needs"
            answers.release()
        for _ in range(5):
            answers.release()
        await asyncio.gather(*tasks)

    run_loader(work, memory_bytes=4 * IMAGE_BYTES + PEAK_BYTES, threads=1)
    assert started == list(range(20))


def test_oversized_sample_runs_alone() -> None:
    held: list[int] = []
    concurrent: list[int] = []

    async def ask(loader: MediaLoader, width: int) -> None:
        async with hold(loader, make_media(width)):
            held.append(width)
            concurrent.append(len(held))
            await asyncio.sleep(0)
            held.remove(width)

    async def work(loader: MediaLoader) -> None:
        await asyncio.gather(*(ask(loader, width) for width in (2000, SIDE, 3000, 2000, SIDE)))

    run_loader(work, memory_bytes=IMAGE_BYTES)
    assert concurrent == [1, 1, 1, 1, 1]


def test_cancelled_share_is_returned_after_its_thread(gate: Gate) -> None:
    async def ask(loader: MediaLoader) -> None:
        async with hold(loader, make_media()):
            pytest.fail("the cancelled task received media")

    async def work(loader: MediaLoader) -> None:
        tasks = [asyncio.create_task(ask(loader)) for _ in range(12)]
        await gate.wait_for(2)
        for task in tasks:
            task.cancel()
        assert {type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}
        await asyncio.sleep(0)
        assert AMPLE_BYTES - loader.budget.free_bytes == 2 * PEAK_BYTES, "each running thread holds its memory until it ends"
        gate.is_open.set()
        while loader.budget.free_bytes < AMPLE_BYTES:
            await asyncio.sleep(0.001)

    run_loader(work)


def test_loader_prefetches_one_sample_per_thread(gate: Gate) -> None:
    async def ask(loader: MediaLoader) -> None:
        async with hold(loader, make_media()):
            pass

    async def work(loader: MediaLoader) -> None:
        tasks = [asyncio.create_task(ask(loader)) for _ in range(30)]
        await gate.wait_for(3)
        assert AMPLE_BYTES - loader.budget.free_bytes <= 6 * PEAK_BYTES
        gate.is_open.set()
        await asyncio.gather(*tasks)

    run_loader(work, threads=3)


def test_media_threads_read_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(base64.b64decode(make_media().data or ""))
    threads: list[str] = []

    def note_thread(*given: Any) -> OpenedMedia:
        threads.append(threading.current_thread().name)
        return open_media(*given)

    monkeypatch.setattr(media_loader, "open_media", note_thread)

    async def work(loader: MediaLoader) -> None:
        access = MediaAccess((str(tmp_path),), urls=False, url_timeout_s=1)
        async with loader.hold([Media(uri=str(path))], access, AS_IS) as ((image,),):
            assert image.size == (SIDE, SIDE)

    run_loader(work)
    assert threads
    assert all(name.startswith("media") for name in threads)
