"""The prompt of a run: its pydantic model, and the rules that combine the prompts of the spec and of the model profile."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from common.digests import digest_file
from common.errors import ConfigError, explain_unreadable
from common.prompts.built_in import DEFAULT
from common.prompts.templates import check_template, find_template
from common.records import Kind
from common.spec.base import Spec


class Example(Spec):
    """A question with its answer, shown to the model before the row (few-shot).

    ``images`` are paths. Relative paths start at the folder of the file with the prompt. The images come before the question,
    unless markers in the question place them.
    """

    question: str = Field(description="the question, rendered with the template of the row")
    answer: str = Field(description="the answer that is shown to the model")
    hint: str | None = Field(None, description="the hint of the question")
    options: dict[str, str] = Field(default_factory=dict, description="the options, by letter")
    kind: Kind | None = Field(
        None, description="kind of question; by default, multiple_choice if there are options, else the kind of the row"
    )
    images: tuple[str, ...] = Field(
        (), description="paths of images; relative paths start at the folder of the file with the prompt"
    )
    digests: tuple[str, ...] = Field((), description="digests of the images' content; set when the spec is resolved")


class Turn(Spec):
    """One of several messages that replace ``template``."""

    role: Literal["user", "assistant"] = Field(description="the author of the message; the last turn is the user's")
    text: str = Field(description="a template")


class MultiTurn(StrEnum):
    """How a conversation with several user turns is sent to the model."""

    GIVEN = "given"  # one request: earlier answers are sent as written
    ASK = "ask"  # one request for each user turn: the model's own answers take the place of the written ones


class PromptSpec(Spec):
    """The prompt: the rules that turn the fields of a row into messages. ``docs/prompts.md`` describes the templates.

    - ``template`` is the name of a built-in template, or a template.
    - ``turns`` replaces ``template`` by several messages. The last one must be the user's.
    - ``suffix`` is added on a new line at the end of the last user message.

    A row with its own conversation does not use ``template`` and ``turns``.
    """

    template: str = Field("default", description="name of a built-in template, or a template")
    system: str | None = Field(None, description="the system message, a template; it precedes the row's own system message")
    suffix: str | None = Field(None, description="a line at the end of the last user message, a template")
    examples: tuple[Example, ...] = Field((), description="questions with answers that precede the row (few-shot)")
    turns: tuple[Turn, ...] = Field((), description="several messages in place of template")
    multi_turn: MultiTurn = Field(
        MultiTurn.GIVEN,
        description="given sends a conversation in one request, with the earlier answers as written; ask asks its user turns one "
        "after the other, with the model's own answers in place of the written ones",
    )

    @model_validator(mode="after")
    def _check_turns(self) -> Self:
        if self.turns and self.template != "default":
            raise ValueError("found template and turns; expected one of them")
        if self.turns and self.turns[-1].role != "user":
            raise ValueError(f"turns.{len(self.turns) - 1}.role: found {self.turns[-1].role!r}; expected user for the last turn")
        return self

    @property
    def asks_turns(self) -> bool:
        return self.multi_turn == MultiTurn.ASK

    def dump_asked(self) -> dict[str, Any]:
        """Return the fields that identify the prompt, without default values and without the paths of images."""
        asked = self.model_dump(mode="json", exclude_defaults=True)
        for example in asked.get("examples", ()):
            example.pop("images", None)
        return asked


def expand_prompt(value: Any) -> Any:
    """Return the fields of a prompt. If the value is a text, it is the template."""
    return {"template": value} if isinstance(value, str) else value


def resolve_prompt(asked: PromptSpec, profile: PromptSpec, spec_path: Path, profile_path: Path) -> PromptSpec:
    """Return the profile's prompt, changed by the fields that the spec sets.

    A ``template`` of the spec removes the ``turns`` of the profile, and ``turns`` of the spec remove its ``template``.
    The paths of images become absolute, with the digests of the files. Raises ``ConfigError`` if a template is invalid or an
    image cannot be read.
    """
    _check_templates(asked, str(spec_path))
    _check_templates(profile, str(profile_path))
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    if given.keys() & {"template", "turns"}:
        given = {"template": DEFAULT, "turns": (), **given}
    from_spec = "examples" in given
    merged = profile.model_copy(update=given)
    return _read_images(merged, spec_path if from_spec else profile_path)


def _check_templates(prompt: PromptSpec, where: str) -> None:
    if not prompt.dump_asked():
        return  # this saves the time of importing jinja2 and compiling the default template
    named = {
        "template": find_template(prompt.template, f"{where}: prompt.template"),
        "system": prompt.system,
        "suffix": prompt.suffix,
    }
    named |= {f"turns.{number}.text": turn.text for number, turn in enumerate(prompt.turns)}
    for name, text in named.items():
        if text is not None:
            check_template(text, f"{where}: prompt.{name}")


def _read_images(prompt: PromptSpec, where: Path) -> PromptSpec:
    """Return the prompt with absolute paths and digests. Relative paths start at the folder of the file ``where``."""
    examples = []
    for number, example in enumerate(prompt.examples):
        paths = [_resolve(where.parent, path, f"{where}: prompt.examples.{number}.images") for path in example.images]
        digests = tuple(_digest(path, f"{where}: prompt.examples.{number}.images") for path in paths)
        examples.append(example.model_copy(update={"images": tuple(map(str, paths)), "digests": digests}))
    return prompt.model_copy(update={"examples": tuple(examples)})


def _resolve(folder: Path, path: str, where: str) -> Path:
    if "\0" in path or not path.strip() or "://" in path[:16]:
        raise ConfigError(f"{where}: found {path!r}; expected the path of an image file")
    return (folder / path).resolve()


def _digest(path: Path, where: str) -> str:
    try:
        if not path.is_file():
            raise ConfigError(f"{where}: no file {str(path)!r}; expected an image; relative paths start at the folder of this file")
        return digest_file(path)
    except OSError as error:
        raise explain_unreadable(error, f"{where}: {path} cannot be read: {error.strerror}; check its permissions") from error
