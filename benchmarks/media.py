"""How fast media are decoded ahead of an engine, and what memory that takes: by threads, bounds and budget.

    python -m benchmarks.media [--images 48] [--threads 1,2,4]

Every line is a process of its own that decodes that many 4000 x 3000 JPEGs, or 1080p videos of 10 s, for an engine that takes
any number at once and needs "answer" seconds for each: none to see the rate, many to see the memory that is held meanwhile.
Memory is what the process's peak grew by.  "none" is a budget of 64 GiB.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
from PIL import Image

from common.records import Media
from common.spec.models import MediaBounds
from workers.media.files import MediaAccess
from workers.media.loader import MediaLoader

NO_BUDGET_MB = 64 * 1024
PHOTO, FRAME = (4000, 3000), (1920, 1080)

# What is shown, how long the engine takes for it (s), the budget (MiB), and the most pixels.
CASES = (
    ("photo.jpg", 0, 512, None),
    ("photo.jpg", 0, 512, 1_000_000),
    ("photo.jpg", 0, 512, 200_000),
    ("progressive.jpg", 0, 512, 200_000),
    ("dense.mp4", 0, 512, 200_000),
    ("sparse.mp4", 0, 512, 200_000),
    ("photo.jpg", 5, NO_BUDGET_MB, None),
    ("photo.jpg", 5, 512, None),
    ("photo.jpg", 5, 512, 200_000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--threads", default="1,2,4", help="numbers of threads to compare")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a process of its own is asked
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(**json.loads(asked.measure))))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("pillow", "av"))
    print(f"{asked.images} of each; {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    print(f"{'media':18}{'answer':>8}{'budget':>10}{'max_pixels':>12}{'threads':>9}{'a second':>10}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory(prefix="vlm-fleet-bench-") as folder:
        write_media(Path(folder))
        for name, answer_s, budget_mb, max_pixels in CASES:
            for threads in map(int, asked.threads.split(",")):
                path = str(Path(folder) / name)
                case = {"path": path, "count": asked.images, "threads": threads, "answer_s": answer_s}
                rate, peak_mb = run_apart({**case, "budget_mb": budget_mb, "max_pixels": max_pixels})
                budget = "none" if budget_mb == NO_BUDGET_MB else f"{budget_mb} MiB"
                print(f"{name:18}{answer_s:8}{budget:>10}{max_pixels or '':>12}{threads:9}{rate:10.1f}{peak_mb:10.0f}")


def write_media(folder: Path) -> None:
    """Write pictures that are as hard to decode as photos, and videos with a keyframe every 10 frames and with a single one."""
    photo = make_picture(PHOTO)
    photo.save(folder / "photo.jpg", quality=90)
    photo.save(folder / "progressive.jpg", quality=90, progressive=True)
    pixels = np.asarray(make_picture(FRAME))
    for name, gop in (("dense.mp4", 10), ("sparse.mp4", 1000)):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            assert isinstance(stream, av.VideoStream)  # noqa: S101  # as libx264 is one of pictures
            stream.width, stream.height = FRAME
            stream.codec_context.gop_size = gop
            stream.codec_context.options = {"preset": "ultrafast", "sc_threshold": "0"}
            for number in range(250):
                frame = np.ascontiguousarray(np.roll(pixels, 8 * number, axis=1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            container.mux(stream.encode(None))


def make_picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def run_apart(case: dict[str, object]) -> Sequence[float]:
    command = [sys.executable, "-m", "benchmarks.media", "--measure", json.dumps(case)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[float] = json.loads(done.stdout)
    return found


def measure(path: str, count: int, threads: int, answer_s: float, budget_mb: int, max_pixels: int | None) -> tuple[float, float]:
    """Return media decoded a second, up to the last one's end, and the growth of this process's peak in MiB."""
    before_mb = peak_mb()
    media = Media(uri=path, kind="video" if path.endswith(".mp4") else "image")
    loader, bounds = MediaLoader(threads, budget_mb * 2**20), MediaBounds(max_pixels=max_pixels)
    seconds = asyncio.run(decode_all(loader, [media] * count, bounds, answer_s))
    return count / seconds, peak_mb() - before_mb


async def decode_all(loader: MediaLoader, media: Sequence[Media], bounds: MediaBounds, answer_s: float) -> float:
    """Return the seconds until the last one was decoded."""
    access = MediaAccess((Path("/"),), urls=False, url_timeout_s=1)
    began, last = time.perf_counter(), 0.0

    async def ask(one: Media) -> None:
        nonlocal last
        async with loader.hold([one], access, bounds):
            last = time.perf_counter()
            await asyncio.sleep(answer_s)

    await asyncio.gather(*map(ask, media))
    return last - began


def peak_mb() -> float:
    """Return the most memory that this process ever had; Linux only."""
    line = next(line for line in io.StringIO(Path("/proc/self/status").read_text()) if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
