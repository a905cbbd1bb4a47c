"""The reasons why a dataset is not enqueued."""

from common.errors import ConfigError
from producer.datasets.columns import suggest_mapping, write_mapping
from producer.datasets.media_files import FileProblem
from producer.datasets.survey.facts import Facts


def check_media(facts: Facts) -> None:
    """Raise ``ConfigError`` if no row has media, but a column that no field uses certainly contains media."""
    if facts.with_media:
        return
    for name, column in facts.columns.items():
        if column.holds_media:
            mapping = write_mapping(_suggest(facts) | {column.media or "image": name})
            raise ConfigError(
                f"dataset {facts.source.name!r}: {facts.source.path}: column {name!r} holds media in {column.rows:,} rows, and "
                f"no field uses it, so the questions would be sent without media; expected {mapping} in the dataset, or "
                f"ignore: [{name}] to send them without it"
            )


def find_refusal(facts: Facts) -> str | None:
    """Return the message for a dataset without questions, or with only missing media, or None.

    Missing media are accepted if media files are not read on this machine (``digest_media: never``).
    """
    if facts.readable and not (facts.source.question or facts.used["question"] or facts.used["messages"]):
        return _explain_no_question(facts)
    if not facts.files.are_all_absent or facts.source.digest_media == "never":
        return None
    bad_file, column = facts.bad_files[FileProblem.ABSENT]
    return (
        f"dataset {facts.source.name!r}: the media of all {facts.files.checked:,} rows with media are missing: the first, "
        f"{bad_file.path} (field {column!r}), {bad_file.problem}. Relative paths start at media_root ({facts.reading.root}); "
        "expected the files there: correct the paths or media_root. If only the workers have the files, set "
        "digest_media: never in the dataset"
    )


def _explain_no_question(facts: Facts) -> str:
    columns, mapping = ", ".join(list(facts.seen)[:20]) or "none", _suggest(facts)
    given = "question: TEXT in the dataset, which is the question of every row"
    if mapping.keys() & {"question", "messages"}:
        expected = f"{write_mapping(mapping)} in the dataset"
    elif facts.with_media:
        expected = f"{given}, or fields: {{question: COLUMN}}"
    else:
        expected = f"{write_mapping({'question': 'COLUMN', **mapping})} in the dataset, or {given}"
    return f"dataset {facts.source.name!r}: {facts.source.path}: no row has a question; columns: {columns}; expected {expected}"


def _suggest(facts: Facts) -> dict[str, str]:
    return suggest_mapping(facts.columns, facts.used_fields)
