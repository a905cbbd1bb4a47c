"""The prompt of a run: fields of the spec over those of the profile, errors that name their file, and the run id."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from common.errors import ConfigError
from common.settings import get_settings
from common.spec.files import read_profile, read_specs
from common.spec.models import RunSpec
from common.spec.prompts import PromptSpec
from producer.datasets.survey import survey_specs

TURNS = [{"role": "user", "text": "{{ question }}"}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "profiles").mkdir()
    monkeypatch.setenv("FLEET_PROFILES_DIR", str(tmp_path / "profiles"))
    get_settings.cache_clear()
    (tmp_path / "rows.jsonl").write_text('{"question": "q"}\n')
    for name in ("profiles/shot", "shot"):
        Image.new("RGB", (4, 4), "red" if name == "shot" else "blue").save(tmp_path / f"{name}.png")
    return tmp_path


def resolve(folder: Path, prompt: Any = None, profile_prompt: Any = None, *changes: str) -> RunSpec:
    profile = {"name": "tried", "engine": "echo", **({"prompt": profile_prompt} if profile_prompt is not None else {})}
    (folder / "profiles" / "tried.yaml").write_text(yaml.safe_dump(profile))
    spec = {"model": "tried", "datasets": [{"path": "rows.jsonl"}], **({"prompt": prompt} if prompt is not None else {})}
    (folder / "run.yaml").write_text(yaml.safe_dump(spec))
    (resolved,) = read_specs(folder / "run.yaml", changes)
    return resolved


@pytest.mark.parametrize(
    ("asked", "profile", "expected"),
    [
        (None, None, {}),
        ({}, {}, {}),
        ("question_only", None, {"template": "question_only"}),
        (None, "lmms_eval", {"template": "lmms_eval"}),
        ({"suffix": "Brief."}, {"system": "You.", "suffix": "Long."}, {"system": "You.", "suffix": "Brief."}),
        ({"system": None}, {"system": "You."}, {}),
        ({"turns": TURNS}, {"template": "lmms_eval", "suffix": "x"}, {"turns": TURNS, "suffix": "x"}),
        ("question_only", {"turns": TURNS}, {"template": "question_only"}),
        ("default", "lmms_eval", {}),
        ({"multi_turn": "ask"}, "lmms_eval", {"template": "lmms_eval", "multi_turn": "ask"}),
        ({"multi_turn": "given"}, {"multi_turn": "ask"}, {}),
    ],
)
def test_spec_fields_override_profile_fields(folder: Path, asked: Any, profile: Any, expected: dict[str, Any]) -> None:
    assert resolve(folder, asked, profile).prompt == PromptSpec.model_validate(expected)


@pytest.mark.parametrize("multi_turn", ["given", "ask"])
def test_sources_are_read_for_the_prompt(folder: Path, multi_turn: str) -> None:
    spec = resolve(folder, {"multi_turn": multi_turn})
    ((surveyed,), _) = survey_specs([spec])
    for one in (spec, surveyed):
        assert [source.asks_turns for source in one.datasets] == [multi_turn == "ask"]


def test_specs_of_one_file_keep_their_own_mode(folder: Path) -> None:
    specs = [resolve(folder, {"multi_turn": multi_turn}) for multi_turn in ("given", "ask", "given")]
    surveyed, _ = survey_specs(specs)
    assert [spec.datasets[0].asks_turns for spec in surveyed] == [False, True, False]
    assert [spec.run_id for spec in surveyed] == [spec.run_id for spec in specs]


def test_only_asking_turns_changes_the_run_id(folder: Path) -> None:
    plain, given, ask = (resolve(folder, prompt).run_id for prompt in (None, {"multi_turn": "given"}, {"multi_turn": "ask"}))
    assert plain == given != ask


def test_command_line_sets_a_field_of_the_prompt(folder: Path) -> None:
    assert resolve(folder, {}, {}, "prompt.suffix=Brief.").prompt.suffix == "Brief."
    assert resolve(folder, None, None, "prompt=question_only").prompt.template == "question_only"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"tempalte": "x y"}, "prompt.tempalte: unknown field (found 'x y'); did you mean 'template'?"),
        ({"template": "defualt"}, "prompt.template: no template is called 'defualt'; did you mean 'default'?"),
        ({"template": "{{ question"}, "prompt.template: line 1: "),
        ({"system": "{% set x = 1 %}"}, "prompt.system: line 1: a template cannot use set"),
        ({"suffix": "{{ 1 * 2 }}"}, "prompt.suffix: line 1: "),
        ({"turns": [{"role": "user", "text": "{{"}]}, "prompt.turns.0.text: line 1: "),
        ({"turns": [{"role": "assistant", "text": "x"}]}, "expected user for the last turn"),
        ({"turns": [{"role": "system", "text": "x"}]}, "prompt.turns.0.role: found 'system'"),
        ({"turns": TURNS, "template": "x y"}, "found template and turns; expected one of them"),
        ({"examples": [{"question": "q"}]}, "prompt.examples.0.answer: missing"),
        ({"examples": [{"question": "q", "answer": 1}]}, "prompt.examples.0.answer: found 1; expected: text"),
        ({"examples": [{"question": "q", "answer": "a", "images": ["no.png"]}]}, "prompt.examples.0.images: no file "),
        ({"examples": [{"question": "q", "answer": "a", "images": ["https://host/a.png"]}]}, "prompt.examples.0.images: found "),
        ({"multi_turn": "asked"}, "prompt.multi_turn: found 'asked'; expected: 'given' or 'ask'"),
        (["x"], "prompt: found ['x']; expected: a mapping"),
    ],
)
def test_mistake_names_file_and_field(folder: Path, prompt: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(folder, prompt)
    assert str(caught.value).startswith(f"{folder}/run.yaml: ")
    assert message in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        resolve(folder, None, prompt)
    assert str(caught.value).startswith(f"{folder}/profiles/tried.yaml: ")
    assert message in str(caught.value)


def test_worker_refuses_a_profile_with_an_invalid_prompt(folder: Path) -> None:
    (folder / "profiles" / "tried.yaml").write_text("{name: tried, engine: echo, prompt: {sistem: x}}")
    with pytest.raises(ConfigError, match="unknown field"):
        read_profile("tried")


def shoot(image: str) -> dict[str, Any]:
    return {"examples": [{"question": "q", "answer": "a", "images": [image]}]}


def test_images_start_at_the_folder_of_their_file(folder: Path) -> None:
    ours, theirs = resolve(folder, shoot("shot.png")), resolve(folder, None, shoot("shot.png"))
    assert ours.prompt.examples[0].images == (str(folder / "shot.png"),)
    assert theirs.prompt.examples[0].images == (str(folder / "profiles" / "shot.png"),)
    assert ours.prompt.examples[0].digests != theirs.prompt.examples[0].digests


def test_image_counts_by_content_and_not_by_place(folder: Path) -> None:
    before = resolve(folder, shoot("shot.png"))
    (folder / "shot.png").rename(folder / "moved.png")
    moved = resolve(folder, shoot("moved.png"))
    Image.new("RGB", (4, 4), "lime").save(folder / "moved.png")
    changed = resolve(folder, shoot("moved.png"))
    assert before.run_id == moved.run_id
    assert changed.run_id != moved.run_id


def test_only_a_prompt_that_differs_changes_the_run_id(folder: Path) -> None:
    plain = resolve(folder).run_id
    same: list[Any] = [{}, "default", {"system": None, "examples": []}]
    assert {resolve(folder, prompt).run_id for prompt in same} == {plain}
    prompts = [
        "question_only",
        {"system": "x"},
        {"suffix": "x"},
        {"turns": TURNS},
        shoot("shot.png"),
        {"template": "{{ question }}"},
    ]
    assert len({plain, *(resolve(folder, prompt).run_id for prompt in prompts)}) == len(prompts) + 1
    assert resolve(folder, None, "question_only").run_id == resolve(folder, "question_only").run_id
