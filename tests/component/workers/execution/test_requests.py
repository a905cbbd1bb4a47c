"""The request of a sample on a real worker: media in place, the planned digest, and plans of earlier versions."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.broker.app import make_app
from common.prompts.built_in import TEMPLATES
from common.records import Media, Message, Outcome, Sample, VideoInput
from producer.planning.requests import render_samples
from producer.runs.control import resume_run
from tests.support.fleet import Fleet
from tests.support.media.videos import encode_video, paint_number, read_number
from tests.support.planning import make_spec
from tests.support.workers import ScriptedEngine, enqueue_rows, open_worker, read_samples
from workers.engines.base import Request
from workers.execution.sample import answer_samples
from workers.execution.task import run_task
from workers.media.files import MediaAccess
from workers.media.frames import Frames
from workers.runtime.worker import Worker

INPUTS = Path(__file__).resolve().parents[3] / "data" / "inputs"
COLOURS = {(255, 0, 0): "red", (0, 0, 255): "blue", (0, 255, 0): "green", (0, 128, 0): "green"}


@pytest.fixture
def worker(fleet: Fleet) -> Iterator[Worker]:
    fleet.write_profile("tried")
    with open_worker(fleet, "tried") as worker:
        worker.host.engine = ScriptedEngine("ok")
        yield worker


def list_asked(worker: Worker) -> list[Request]:
    """Return the requests that reached the engine."""
    engine = worker.host.engine
    assert isinstance(engine, ScriptedEngine)
    return engine.asked


def show(request: Request) -> list[tuple[str, list[str]]]:
    """Return the messages, with the colour of each image in its place."""

    def describe(part: str | int) -> str:
        if isinstance(part, str):
            return part
        pixel = request.images[part].getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return f"[{nearest(pixel)}]"

    return [(message.role, [describe(part) for part in message.content]) for message in request.messages]


def nearest(pixel: tuple[int, ...]) -> str:
    return min(COLOURS.items(), key=lambda known: sum(abs(a - b) for a, b in zip(known[0], pixel, strict=False)))[1]


def run_rows(worker: Worker, fleet: Fleet, rows: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    """Run rows. Return the requests that the engine received, or the fault of the row, by row id."""
    run_id = enqueue_rows(fleet, "tried", rows, **spec)
    samples = {sample.sample_id: sample.index for sample in read_samples(worker, run_id)}
    assert run_task(worker, run_id, 0) == "done"
    asked = {samples[request.request_id]: show(request) for request in list_asked(worker)}
    faults = {one.index: f"{one.error_code}: {one.error_message}" for one in fleet.collect(run_id) if one.status == "failed"}
    return asked | faults


def test_marked_media_reach_the_engine_in_place(worker: Worker, fleet: Fleet) -> None:
    shutil.copytree(INPUTS, fleet.folder, dirs_exist_ok=True)
    rows = [json.loads(line) for line in (INPUTS / "markers.jsonl").read_text().splitlines()]
    select = "\nPlease select the correct answer from the options above. \n"
    word = "\nAnswer the question using a single word or phrase."
    assert run_rows(worker, fleet, rows) == {
        "1": [
            (
                "user",
                [
                    *("Question: Compare ", "[blue]", " with ", "[red]"),
                    f": which is red?\nOptions:\nA. the first\nB. the second{select}",
                ],
            )
        ],
        "2": [
            (
                "user",
                ["Question: Which option shows blue?\nOptions:\nA. ", "[red]", "\nB. ", "[blue]", "\nC. ", "[green]", select],
            )
        ],
        "3": [("user", [f"What does the tag <image> mean in HTML?{word}"])],
        "4": "bad_field: row 4: <image 2> names a missing image, but the row has 1 image; correct the marker or add the image",
    }


def test_rows_that_differ_in_metadata_are_all_sent(worker: Worker, fleet: Fleet) -> None:
    rows = [{"id": topic, "question": "What is it?", "topic": topic} for topic in ("cats", "dogs")]
    asked = run_rows(worker, fleet, rows, prompt="{{ question }} {{ topic }}")
    assert asked == {topic: [("user", [f"What is it? {topic}"])] for topic in ("cats", "dogs")}


def test_conversation_reaches_the_engine_as_written(worker: Worker, fleet: Fleet) -> None:
    (line,) = (INPUTS / "messages.jsonl").read_text().splitlines()
    sample = to_sample(json.loads(line))
    (sample,) = render_samples([sample], make_spec())
    run_id = enqueue_rows(fleet, "tried", [{"question": "x"}])
    run = worker.runs.load(run_id)
    run.access = MediaAccess((str(INPUTS),), urls=False, url_timeout_s=1)
    ((outcome,),) = answer_samples(worker.host, run, [sample], lambda: False)
    assert outcome.status == "ok"
    assert show(list_asked(worker)[0]) == [
        ("system", ["Answer in one word."]),
        ("user", ["First this:", "[red]", "then this:", "[blue]", "Which came first?"]),
    ]


def to_sample(row: dict[str, Any]) -> Sample:
    """Return the sample of a row with messages in OpenAI's format."""
    media: list[Media] = []

    def read_part(part: dict[str, Any]) -> str | int:
        if part["type"] == "text":
            return str(part["text"])
        media.append(Media(uri=str(INPUTS / part["image_url"]["url"])))
        return len(media) - 1

    contents = [
        [one["content"]] if isinstance(one["content"], str) else list(map(read_part, one["content"])) for one in row["messages"]
    ]
    messages = tuple(
        Message(role=one["role"], content=tuple(content)) for one, content in zip(row["messages"], contents, strict=True)
    )
    return Sample(
        sample_id=row["id"], dataset="rows", index=row["id"], messages=messages, media=tuple(media), target=(row["answer"],)
    )


def test_video_frames_replace_the_video_marker(worker: Worker, fleet: Fleet) -> None:
    (fleet.folder / "film.mp4").write_bytes(encode_video(3))
    paint_number(7).save(fleet.folder / "a.png")
    row = {
        "id": 0,
        "question": "See <image>, then <video>, then <image 1>.",
        "image": "a.png",
        "video": "film.mp4",
        "kind": "free_text",
    }
    run_id = enqueue_rows(fleet, "tried", [row])
    assert run_task(worker, run_id, 0) == "done"
    (request,) = list_asked(worker)
    assert request.messages[0].content == ("See ", 0, ", then ", 1, 2, 3, ", then ", 0, ".")
    assert [read_number(image) for image in request.shown] == [7, 0, 1, 2, 7]


def ask_about_videos(worker: Worker, fleet: Fleet, *, takes_videos: bool, **media: Any) -> tuple[list[Request], list[Outcome]]:
    """Ask about two videos and two images in one row, and about no media in another. Return the requests and the outcomes."""
    assert isinstance(worker.host.engine, ScriptedEngine)
    worker.host.engine.takes_videos = takes_videos
    (fleet.folder / "film.mp4").write_bytes(encode_video(50))
    (fleet.folder / "still.mp4").write_bytes(encode_video(1))
    paint_number(7).save(fleet.folder / "a.png")
    text = "<image> <video 2> <video 1> <image 1> <video 2>"
    row = {"question": text, "image": "a.png", "video": ["film.mp4", "still.mp4"], "kind": "free_text"}
    fleet.write_profile("tried", media={"max_frames": 3, **media})
    run_id = enqueue_rows(fleet, "tried", [row, {"question": "Why?"}])
    assert run_task(worker, run_id, 0) == "done"
    requests = sorted(list_asked(worker), key=lambda request: len(request.images))
    return requests, sorted(fleet.collect(run_id), key=lambda outcome: outcome.index)


def show_parts(request: Request) -> list[Any]:
    """Return texts, the numbers in images, and lists of the numbers in the frames of videos."""

    def show_part(part: Any) -> Any:
        if isinstance(part, Frames):
            return [read_number(frame) for frame in part]
        return part.strip() if isinstance(part, str) else read_number(part)

    return [shown for shown in map(show_part, request.list_parts(request.messages[0])) if shown != ""]


@pytest.mark.parametrize("asked", ["auto", "native"])
def test_videos_are_sent_in_place_as_videos(worker: Worker, fleet: Fleet, asked: str) -> None:
    (plain, request), outcomes = ask_about_videos(worker, fleet, takes_videos=True, video_input=asked)
    assert show_parts(request) == [7, [0], [8, 25, 41], 7, [0]]
    still, film, _ = request.shown_videos
    assert (film.times.numbers, film.times.total, round(film.times.fps, 3)) == ((8, 25, 41), 50, 25)
    assert (still.times.numbers, still.times.total) == ((0,), 1)
    assert [read_number(image) for image in request.shown_images] == [7, 7]
    assert [read_number(image) for image in request.shown] == [7, 0, 8, 25, 41, 7, 0]
    assert plain.shown_videos == []
    assert [outcome.video_input for outcome in outcomes] == [VideoInput.NATIVE, None]


@pytest.mark.parametrize(("takes_videos", "asked"), [(False, "auto"), (False, "frames"), (True, "frames")])
def test_videos_are_sent_in_place_as_frames(worker: Worker, fleet: Fleet, takes_videos: bool, asked: str) -> None:
    (_, request), outcomes = ask_about_videos(worker, fleet, takes_videos=takes_videos, video_input=asked)
    assert show_parts(request) == [7, 0, 8, 25, 41, 7, 0]
    assert not request.videos
    assert [outcome.video_input for outcome in outcomes] == [VideoInput.FRAMES, None]


@pytest.mark.parametrize("takes_videos", [True, False])
def test_broken_video_has_the_same_fault(worker: Worker, fleet: Fleet, takes_videos: bool) -> None:
    engine = worker.host.engine
    assert isinstance(engine, ScriptedEngine)
    engine.takes_videos = takes_videos
    (fleet.folder / "film.mp4").write_bytes(b"not a video")
    run_id = enqueue_rows(fleet, "tried", [{"question": "What?", "video": "film.mp4"}])
    run_task(worker, run_id, 0)
    ((code, message),) = [(one.error_code, one.error_message) for one in fleet.collect(run_id)]
    assert code == "media_corrupt"
    assert "film.mp4: not a video, cut off, or damaged" in str(message)
    assert engine.asked == []


def test_examples_system_and_suffix_reach_the_engine(worker: Worker, fleet: Fleet) -> None:
    for name, colour in (("shots/shot", "blue"), ("a", "red")):
        (fleet.folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(fleet.folder / f"{name}.png")
    prompt = {
        "template": "{{ topic }}: {{ question }}",
        "system": "You know {{ topic }}.",
        "suffix": "Brief.",
        "examples": [{"question": "Which?", "answer": "blue", "images": ["shots/shot.png"]}],
    }
    rows = [{"id": 0, "question": "What? <image>", "image": "a.png", "topic": "art"}, {"id": 1, "question": "Why?"}]
    asked = run_rows(worker, fleet, rows, prompt=prompt)
    assert asked.pop("1").startswith("bad_field: row 1: prompt.template: 'topic' is undefined; the row has: dataset, ")
    assert asked == {
        "0": [
            ("system", ["You know art."]),
            ("user", ["[blue]", "art: Which?"]),
            ("assistant", ["blue"]),
            ("user", ["art: What? ", "[red]", "\nBrief."]),
        ]
    }


def test_request_that_differs_from_plan_pauses_run(worker: Worker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = enqueue_rows(fleet, "tried", [{"id": number, "question": f"q{number}"} for number in range(3)])
    planned = TEMPLATES["default"]
    monkeypatch.setitem(TEMPLATES, "default", "{{ question }} of a later version")
    assert run_task(worker, run_id, 0) == "failed"
    view = fleet.ledger.view_run(run_id)
    assert view is not None
    assert view.state == "paused"
    assert "dataset rows, row " in view.reason
    assert "this worker renders another request" in view.reason
    assert list_asked(worker) == []

    monkeypatch.setitem(TEMPLATES, "default", planned)
    resume_run(run_id, fleet.store, fleet.ledger, make_app(fleet.settings))
    run_task(worker, run_id, 0)  # this worker does not receive messages
    assert fleet.wait_for_end(run_id).samples.ok == 3


def test_sample_of_earlier_plan_sends_the_same_request(worker: Worker, fleet: Fleet) -> None:
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(fleet.folder / f"{name}.png")
    run_id = enqueue_rows(fleet, "tried", [{"question": "See <image 2>.", "image": ["red.png", "blue.png"], "answer": "x"}])
    samples = [sample.model_copy(update={"request_digest": None}) for sample in read_samples(worker, run_id)]
    ((outcome,),) = answer_samples(worker.host, worker.runs.load(run_id), samples, lambda: False)
    assert outcome.status == "ok"
    text = "See <image 2>.\nAnswer the question using a single word or phrase."
    assert show(list_asked(worker)[0]) == [("user", ["[red]", "[blue]", text])]
