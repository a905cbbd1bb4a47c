"""The sections of ``docs/reference.md``. All descriptions come from the source."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common import exit_codes, sample_codes
from common.answers.validators import VALIDATORS, describe_validator
from common.records import Attempt, Outcome, TurnAnswer
from common.settings import Settings
from common.spec.models import (
    AbortIf,
    Chunks,
    DatasetSource,
    MediaBounds,
    ModelProfile,
    RunFile,
    SamplingParams,
    Shuffle,
    TableOption,
    Validation,
)
from common.spec.prompts import Example, PromptSpec, Turn
from common.storage.parts import OUTCOME_SCHEMA
from producer.datasets.rows import FIELDS
from tests.support.reference.types import name_default, name_type
from workers.engines.echo import EchoOptions, Rule
from workers.engines.hf.model import HfOptions
from workers.engines.mmada import MmadaOptions
from workers.engines.openai.options import OpenAIOptions

COMMAND = "python -m tests.support.reference > docs/reference.md"


class Section(NamedTuple):
    """A table of the fields of one model."""

    title: str
    model: type[BaseModel]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9_ -]", "", self.title.lower()).replace(" ", "-")


RUN_SPEC = (
    Section("Fields of a run spec", RunFile),
    Section("datasets", DatasetSource),
    Section("datasets.table", TableOption),
    Section("generation", SamplingParams),
    Section("validation", Validation),
    Section("prompt", PromptSpec),
    Section("prompt.examples", Example),
    Section("prompt.turns", Turn),
    Section("shuffle", Shuffle),
    Section("chunks", Chunks),
    Section("abort_if", AbortIf),
)
PROFILE = (
    Section("Fields of a model profile", ModelProfile),
    Section("media", MediaBounds),
    Section("Options of the engine echo", EchoOptions),
    Section("Rules of the engine echo", Rule),
    Section("Options of the engine hf", HfOptions),
    Section("Options of the engine openai", OpenAIOptions),
    Section("Options of MmadaEngine", MmadaOptions),
)
_LINKS = {section.model.__name__: section.anchor for section in (*RUN_SPEC, *PROFILE)}
_SETTINGS_OF_MODELS = {"generation", "validation", "prompt"}  # mappings that are merged before the model of the section reads them

_HEAD = f"""# Reference

This page lists all fields, settings, validators, codes and columns. [Datasets](datasets.md), [rows](rows.md),
[prompts](prompts.md) and [models](models.md) explain their use. Fields are optional unless their default is `required`.

<!-- Generated from the descriptions in the source; do not edit. Generate it again with: {COMMAND} -->

"""


def make_page() -> str:
    """Return ``docs/reference.md`` as Markdown."""
    parts = [
        "## Fields of a row\n",
        "`fields: {NAME: COLUMN}` of a dataset maps a column with another name. All other columns become metadata.\n",
        _write_table(("our name", "names in the file", "value", "meaning"), _list_row_fields()),
        "## Run spec\n",
        "A run spec is a YAML file: `producer enqueue run.yaml`. `--set FIELD=VALUE` replaces a field, for example",
        "`--set generation.max_tokens=64` or `--set datasets.0.limit=50`.\n",
        *(_write_section(section) for section in RUN_SPEC),
        "## Model profile\n",
        "A profile is a YAML file. Its `generation`, `validation` and `prompt` have the fields of the run spec. The",
        "`engine_options` of vllm are the [engine arguments of vLLM](https://docs.vllm.ai/en/latest/configuration/engine_args.html).\n",
        *(_write_section(section) for section in PROFILE),
        "## Validators\n",
        "A validator checks the form of an answer, never the target. `package.module:function` names your own validator.\n",
        _write_table(("name", "argument", "meaning"), _list_validators()),
        "## Settings\n",
        _describe(inspect.getdoc(Settings) or "") + " They come from the environment or from `.env`.\n",
        _write_table(("variable", "type", "default", "meaning"), _list_settings()),
        "## Columns of results.parquet\n",
        "`results.jsonl` has the same fields. Its times are Unix seconds, and its metadata is an object.\n",
        _write_table(("column", "type", "meaning"), _list_columns(OUTCOME_SCHEMA, Outcome)),
        "### attempts\n",
        _write_table(("field", "type", "meaning"), _list_columns(OUTCOME_SCHEMA.field("attempts").type.value_type, Attempt)),
        "### turns\n",
        _write_table(("field", "type", "meaning"), _list_columns(OUTCOME_SCHEMA.field("turns").type.value_type, TurnAnswer)),
        "## Error codes of samples\n",
        "`error_code` in the results is one of these. `producer evaluate RUN` also prints the advice.\n",
        _write_table(("code", "meaning", "what to do"), _list_error_codes()),
        "## Exit codes\n",
        "0 means success. Codes from 70 are exit codes of worker processes, which `workers start` handles.\n",
        _write_table(("code", "meaning"), _list_exit_codes()),
    ]
    return _HEAD + "\n".join(parts)


def _write_section(section: Section) -> str:
    title = section.title if " " in section.title else f"`{section.title}`"
    summary = _describe(inspect.getdoc(section.model) or "")
    rows = ((f"`{name}`", _name_type(name, field), name_default(field), _explain(field)) for name, field in _fields(section.model))
    return f"### {title}\n\n{summary}\n\n" + _write_table(("field", "type", "default", "meaning"), rows)


def _fields(model: type[BaseModel]) -> Iterable[tuple[str, FieldInfo]]:
    return model.model_fields.items()


def _name_type(name: str, field: FieldInfo) -> str:
    named = name_type(field, _LINKS)
    return named.replace("mapping", f"[mapping](#{name})") if name in _SETTINGS_OF_MODELS else named


def _explain(field: FieldInfo) -> str:
    return _quote_braces(field.description or "")


def _describe(text: str) -> str:
    """Return the first paragraph of a docstring as Markdown, on one line."""
    text = re.sub(r"``docs/(\w+)\.md``", r"[\1](\1.md)", text)
    return re.sub(r"(?<!`)``(?!`)(.+?)``(?!`)", r"`\1`", " ".join(text.split("\n\n")[0].split()))


def _quote_braces(text: str) -> str:
    """Show a YAML mapping in a description as code."""
    return re.sub(r"(\{.+\})", r"`\1`", text)


def _write_table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n" for cells in lines)


def _list_row_fields() -> Iterable[tuple[str, ...]]:
    for name, field in FIELDS.items():
        yield f"`{name}`", ", ".join(f"`{one}`" for one in field.names) or "only if mapped", field.forms, field.meaning


def _list_validators() -> Iterable[tuple[str, ...]]:
    for name in VALIDATORS:
        meaning, argument = describe_validator(name)
        yield f"`{name}`", _quote_braces(argument or ""), _describe(meaning)


def _list_settings() -> Iterable[tuple[str, ...]]:
    for name, field in _fields(Settings):
        variable = f"{Settings.model_config['env_prefix']}{name}".upper()
        yield f"`{variable}`", name_type(field, _LINKS), name_default(field), _explain(field)


def _list_columns(schema: pa.Schema | pa.StructType, model: type[BaseModel]) -> Iterable[tuple[str, ...]]:
    for column in schema:
        of = "list of " if pa.types.is_list(column.type) else ""
        kind = column.type.value_type if of else column.type
        yield (
            f"`{column.name}`",
            of + ("structs" if pa.types.is_struct(kind) else str(kind)),
            _explain(model.model_fields[column.name]),
        )


def _list_error_codes() -> Iterable[tuple[str, ...]]:
    for name, meaning in _read_comments(sample_codes):
        code = sample_codes.SampleCode[name]
        yield f"`{code}`", meaning, sample_codes.ADVICE[code]


def _list_exit_codes() -> Iterable[tuple[str, ...]]:
    for code, meaning in sorted((getattr(exit_codes, name), meaning) for name, meaning in _read_comments(exit_codes)):
        yield f"{code}", meaning


def _read_comments(module: ModuleType) -> list[tuple[str, str]]:
    """Return the constants of a module, each with the comment on its line."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    return re.findall(r"^ *([A-Z_]+) = .+?  # (.+)$", source, re.MULTILINE)
