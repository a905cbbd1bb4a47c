"""Faulty specs, profiles and ``--set`` options."""

from pathlib import Path

from tests.support.faults.bad_input.cases import CommandCase, Write, write_nothing
from tests.support.faults.bad_input.contents import file

_GOOD = "model: quick\ndatasets: [{path: rows.jsonl}]\n"
_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
_KNOWN = "; known fields: …"


def _refuse(name: str, given: str, spec: str | bytes, message: str) -> CommandCase:
    """Return a case of a spec; ``message`` follows the spec's name."""
    return CommandCase(name, given, f"producer: spec.yaml: {message}", spec=spec)


def _refuse_more(name: str, given: str, message: str) -> CommandCase:
    """Return a case of a good spec with the additional line ``given``."""
    return _refuse(name, f"`{given}`", _GOOD + given + "\n", message)


def _refuse_source(name: str, fields: str, message: str) -> CommandCase:
    """Return a case of a spec whose dataset has the additional ``fields``."""
    spec = f"model: quick\ndatasets: [{{path: rows.jsonl, {fields}}}]\n"
    return _refuse(name, f"a dataset with `{fields}`", spec, f"datasets.0.{message}")


def _make_folder(folder: Path) -> None:
    (folder / "spec.yaml").unlink()
    (folder / "spec.yaml").mkdir()


SPECS = (
    CommandCase(
        "spec missing", "the path of a missing file", "producer: other.yaml: no such file", arguments=("enqueue", "other.yaml")
    ),
    CommandCase(
        "spec is a folder",
        "the path of a folder",
        "producer: spec.yaml: cannot be read: Is a directory; expected a YAML file",
        prepare=_make_folder,
    ),
    CommandCase("no spec", "`producer enqueue`", "…Missing argument 'SPEC'.", arguments=("enqueue",)),
    _refuse("empty spec", "an empty file", "", "expected a mapping of fields at the top, found nothing"),
    _refuse(
        "list at the top",
        "`- model: quick`",
        "- model: quick\n",
        "expected a mapping of fields at the top, found [{'model': 'quick'}]",
    ),
    _refuse(
        "spec not UTF-8", "a spec in Latin-1", "model: caf\xe9\n".encode("latin-1"), "not UTF-8 (…); expected YAML text in UTF-8"
    ),
    _refuse(
        "dataset given as spec",
        "a file of more than ten million characters",
        b"x" * 10_000_001,
        "more than 10,000,000 characters; expected a spec or a profile, of a few kilobytes",
    ),
    _refuse(
        "NUL in a spec",
        "a zero byte in the second line",
        _GOOD[:15] + "\0" + _GOOD[15:],
        "not valid YAML (line 2): the character #x0000; remove it",
    ),
    _refuse(
        "tabs",
        "a line indented with a tab",
        "model: quick\ngeneration:\n\tmax_tokens: 5\n",
        "not valid YAML (line 3, column 1): while scanning for the next token: found character '\\t' that cannot start any token; "
        "indent with spaces, not with tabs",
    ),
    _refuse(
        "unclosed bracket",
        "`model: [quick`",
        "model: [quick",
        "not valid YAML (line 1, column 14): while parsing a flow sequence: expected ',' or ']', but got '<stream end>'",
    ),
    _refuse(
        "two documents",
        "a second spec behind `---`",
        _GOOD + "---\n" + _GOOD,
        "not valid YAML (line 3, column 1): expected a single document in the stream: but found another document",
    ),
    _refuse(
        "a key twice",
        "two lines `model:`",
        _GOOD + "model: tiny\n",
        "line 3: model: duplicate key, first set in line 1; expected each key once",
    ),
    _refuse(
        "a key twice, deeper",
        "`generation: {seed: 1, seed: 2}`",
        _GOOD + "generation: {seed: 1, seed: 2}\n",
        "line 3: generation.seed: duplicate key, first set in line 3; expected each key once",
    ),
    _refuse(
        "billion laughs",
        "nine anchors of nine references each, which stand for 387 million words",
        _LAUGHS,
        "line 2: b.0: found the alias *a; write the value out, or quote it if it is text",
    ),
    _refuse(
        "anchor in itself",
        "`a: &a [*a]`",
        "a: &a [*a]\n",
        "line 1: a.0: found the alias *a; write the value out, or quote it if it is text",
    ),
    _refuse("YAML nested 5 000 deep", "5 000 brackets", "a: " + "[" * 5000, "nested too deeply; expected a few levels"),
    _refuse(
        "Python in YAML",
        "`model: !!python/name:os.system`",
        "model: !!python/name:os.system\n",
        "not valid YAML (line 1, column 8): could not determine a constructor for the tag '…python/name:os.system'",
    ),
    _refuse_more("unknown field", "modle: quick", "modle: unknown field (found 'quick'); did you mean 'model'?" + _KNOWN),
    _refuse(
        "no dataset",
        "`datasets: []`",
        "model: quick\ndatasets: []\n",
        "datasets: found none; expected at least one, for example datasets: [{path: FILE}]",
    ),
    _refuse("no datasets at all", "a spec without `datasets`", "model: quick\n", "datasets: missing; expected a value"),
    _refuse(
        "no model", "a spec without `model`", "datasets: [{path: rows.jsonl}]\n", "give either model: NAME or models: [NAME, ...]"
    ),
    _refuse(
        "a bool as model",
        "`model: no`, which YAML reads as false",
        _GOOD.replace("quick", "no"),
        "model: found False; …",
    ),
    _refuse(
        "dataset as text",
        "`datasets: [rows.jsonl]`",
        "model: quick\ndatasets: [rows.jsonl]\n",
        "datasets.0: found 'rows.jsonl'; expected: a mapping of fields",
    ),
    _refuse(
        "two datasets with one name",
        "two files called `rows.jsonl`, in two folders",
        "model: quick\ndatasets: [{path: rows.jsonl}, {path: more/rows.jsonl}]\n",
        "two datasets are called 'rows': give one of them another name",
    ),
    _refuse_source(
        "invalid dataset name",
        "name: my rows",
        "name: found 'my rows'; expected at most 64 letters, digits, '.', '_' and '-', beginning with a letter or digit",
    ),
    _refuse_source("negative limit", "limit: -5", "limit: found -5; expected: greater than 0"),
    _refuse_source("limit of zero", "limit: 0", "limit: found 0; expected: greater than 0"),
    _refuse_source(
        "unknown kind",
        "kind: yesno",
        "kind: found 'yesno'; expected: 'multiple_choice', 'yes_no', 'number', 'short_text' or 'free_text'",
    ),
    _refuse_source(
        "misspelt field of a dataset", "medai_root: x", "medai_root: unknown field (found 'x'); did you mean 'media_root'?" + _KNOWN
    ),
    _refuse_source("fields as a list", "fields: [id]", "fields: found ['id']; expected: a mapping"),
    _refuse_more(
        "max_attempts 0", "validation: {max_attempts: 0}", "validation.max_attempts: found 0; expected: greater than or equal to 1"
    ),
    _refuse_more(
        "temperature as text",
        "generation: {temperature: hot}",
        "generation.temperature: found 'hot'; expected: a valid number, unable to parse string as a number",
    ),
    _refuse_more(
        "negative temperature",
        "generation: {temperature: -1}",
        "generation.temperature: found -1; expected: greater than or equal to 0",
    ),
    _refuse_more("temperature NaN", "generation: {temperature: .nan}", "generation.temperature: found nan; expected: …"),
    _refuse_more("no tokens", "generation: {max_tokens: 0}", "generation.max_tokens: found 0; expected: greater than 0"),
    _refuse_more("a bool as number", "generation: {max_tokens: yes}", "generation.max_tokens: found True; …"),
    _refuse_more(
        "seed of more than 64 bits",
        "generation: {temperature: 1, seed: 99999999999999999999}",
        "generation.seed: found 99999999999999999999; expected: less than …",
    ),
    _refuse_more("stop as text", "generation: {stop: END}", "generation.stop: found 'END'; expected: a list"),
    _refuse_more(
        "unknown validator",
        "validation: {validators: [nonempty]}",
        "validation.validators: unknown validator 'nonempty'; did you mean 'non_empty'?…",
    ),
    _refuse_more(
        "validator with a wrong argument",
        "validation: {validators: [{max_words: few}]}",
        "validation.validators: max_words: found 'few'; expected …",
    ),
    _refuse_more(
        "chunks too large",
        "chunks: {max_samples: 100000}",
        "chunks.max_samples: found 100000; expected: less than or equal to 4096",
    ),
    _refuse_more(
        "unknown built-in template",
        "prompt: question_onyl",
        "prompt.template: no template is called 'question_onyl'; did you mean 'question_only'?; expected default, …",
    ),
    _refuse_more(
        "template with a syntax error",
        "prompt: {template: '{{ question'}",
        "prompt.template: line 1: unexpected end of template, …; docs/prompts.md describes templates",
    ),
    _refuse_more(
        "template that computes",
        "prompt: {suffix: '{{ 9 ** 9 }}'}",
        "prompt.suffix: line 1: a template cannot use pow; docs/prompts.md describes templates",
    ),
    _refuse_more(
        "missing image of an example",
        "prompt: {examples: [{question: q, answer: a, images: [no.png]}]}",
        "prompt.examples.0.images: no file 'no.png'; expected an image; relative paths start at the folder of this file",
    ),
    CommandCase(
        "template that names a missing column",
        "`prompt: {template: '{{ questoin }}'}`",
        "producer: dataset 'rows': no row can be rendered with the prompt of this run. prompt.template: 'questoin' is undefined; "
        "did you mean 'question'?; the row has: …",
        spec=_GOOD + "prompt: {template: '{{ questoin }}'}\n",
    ),
    CommandCase(
        "wrong media_root",
        "a dataset with `media_root: pics`, and no such folder",
        "…producer: dataset 'asking': the media of all 1 rows with media are missing: the first, pics/a.png (field 'image'), does "
        "not exist. Relative paths start at media_root (…pics); expected the files there: correct the paths or media_root. If only "
        "the workers have the files, set digest_media: never in the dataset",
        spec="model: quick\ndatasets: [{path: asking.jsonl, media_root: pics}]\n",
        prepare=file("asking.jsonl", lambda: b'{"question": "What?", "image": "a.png"}\n'),
    ),
)


def _refuse_profile(name: str, given: str, content: str, message: str) -> CommandCase:
    spec = _GOOD.replace("quick", "./wrong.yaml")
    return CommandCase(name, given, f"producer: wrong.yaml: {message}", spec=spec, prepare=file("wrong.yaml", content.encode))


PROFILES = (
    CommandCase(
        "profile not found",
        "`model: quik`",
        "producer: model profile 'quik' not found; did you mean 'quick'?\n  looked at: …\n  known profiles: …",
        spec=_GOOD.replace("quick", "quik"),
    ),
    CommandCase(
        "profile file not found",
        "`model: ./mine.yaml`",
        "producer: model profile './mine.yaml' not found\n  looked at: …\n  known profiles: …",
        spec=_GOOD.replace("quick", "./mine.yaml"),
    ),
    _refuse_profile("profile without engine", "`name: wrong` alone", "name: wrong\n", "engine: missing; expected a value"),
    _refuse_profile(
        "misspelt field of a profile",
        "`adaptor: chat`",
        "name: wrong\nengine: echo\nadaptor: chat\n",
        "adaptor: unknown field (found 'chat'); did you mean 'adapter'?" + _KNOWN,
    ),
    _refuse_profile(
        "profile of a path as name", "`name: a/b`", "name: a/b\nengine: echo\n", "name: found 'a/b'; expected at most 64 letters, …"
    ),
    _refuse_profile(
        "wrong default in a profile",
        "`generation: {max_tokens: many}`",
        "name: wrong\nengine: echo\ngeneration: {max_tokens: many}\n",
        "generation.max_tokens: found 'many'; expected: a valid integer, unable to parse string as an integer",
    ),
    _refuse_profile("empty profile", "an empty file", "", "expected a mapping of fields at the top, found nothing"),
)


def _refuse_change(change: str, message: str, prepare: Write = write_nothing) -> CommandCase:
    arguments = ("enqueue", "spec.yaml", "--dry-run", "--set", change)
    return CommandCase(f"--set {change}", f"`--set '{change}'`", f"producer: {message}", prepare=prepare, arguments=arguments)


CHANGES = (
    _refuse_change("nonsense", "--set 'nonsense': expected FIELD=VALUE, for example generation.max_tokens=64"),
    _refuse_change("=5", "--set '=5': expected FIELD=VALUE, for example generation.max_tokens=64"),
    _refuse_change("model.name=x", "--set 'model.name=x': 'model' is a plain value and has no fields"),
    _refuse_change("datasets.7.limit=5", "--set 'datasets.7.limit=5': '7' is not an index into a list of 1"),
    _refuse_change("model=[", "--set 'model=[': not valid YAML (line 1, column 2): while parsing a flow node: …"),
    _refuse_change(
        "generation.max_tokns=9", "spec.yaml: generation.max_tokns: unknown field (found 9); did you mean 'max_tokens'?" + _KNOWN
    ),
    _refuse_change("datasets.0.limit=-1", "spec.yaml: datasets.0.limit: found -1; expected: greater than 0"),
)
