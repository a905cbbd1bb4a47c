"""Measure the rate and the memory of decoding media ahead of an engine, by threads, bounds and budget.

    python -m benchmarks.media [--images 48] [--threads 1,2,4]

Each line is measured in a separate process. The process decodes JPEGs of 4000 x 3000 pixels, or 1080p videos of 10 s, for an
engine that accepts any number of samples and takes "answer" seconds for each. With zero seconds, the line shows the decoding
rate. With many seconds, it shows the memory that waiting samples hold. Memory is the growth of the process's peak. The budget
"none" is 64 GiB.
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

# The kind of media, the time that the engine takes for each (s), the budget (MiB), and the maximum number of pixels.
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
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the case that the separate process measures
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
    """Write pictures that decode as slowly as photos, and videos with a keyframe every 10 frames or with only one keyframe."""
    photo = make_picture(PHOTO)
    photo.save(folder / "photo.jpg", quality=90)
    photo.save(folder / "progressive.jpg", quality=90, progressive=True)
    pixels = np.asarray(make_picture(FRAME))
    for name, gop in (("dense.mp4", 10), ("sparse.mp4", 1000)):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            assert isinstance(stream, av.VideoStream)  # noqa: S101  # libx264 is a video codec
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
    """Return the media decoded per second until the last one, and the growth of this process's peak memory in MiB."""
    before_mb = peak_mb()
    media = Media(uri=path, kind="video" if path.endswith(".mp4") else "image")
    loader, bounds = MediaLoader(threads, budget_mb * 2**20), MediaBounds(max_pixels=max_pixels)
    seconds = asyncio.run(decode_all(loader, [media] * count, bounds, answer_s))
    return count / seconds, peak_mb() - before_mb


async def decode_all(loader: MediaLoader, media: Sequence[Media], bounds: MediaBounds, answer_s: float) -> float:
    """Return the seconds until the last media was decoded."""
    access = MediaAccess(("/",), urls=False, url_timeout_s=1)
    began, last = time.perf_counter(), 0.0

    async def ask(one: Media) -> None:
        nonlocal last
        async with loader.hold([one], access, bounds):
            last = time.perf_counter()
            await asyncio.sleep(answer_s)

    await asyncio.gather(*map(ask, media))
    return last - began


def peak_mb() -> float:
    """Return the peak memory of this process in MiB, on Linux only."""
    line = next(line for line in io.StringIO(Path("/proc/self/status").read_text()) if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
