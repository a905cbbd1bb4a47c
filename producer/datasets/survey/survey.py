"""The survey of one dataset, and of the datasets of a spec file."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from common.errors import ConfigError
from common.prompts.built_in import DEFAULT
from common.settings import get_settings
from common.spec.media_roots import find_media_roots
from common.spec.models import DatasetSource, RunSpec
from producer.datasets.collections.folders import start_reports
from producer.datasets.media_files import forget_digests
from producer.datasets.survey.facts import collect_facts
from producer.datasets.survey.notices import Notice, describe_turns, find_notices, log_notice
from producer.datasets.survey.refusals import check_media, find_refusal
from producer.datasets.survey.turns import TurnFacts


class Survey(NamedTuple):
    """The result of a survey.

    - ``source`` is the surveyed source, with its media digest and the kind of its rows.
    - ``notices`` are for the user.
    - ``refusal`` is the reason why the dataset must not be enqueued, or None.
    - ``rows`` counts the rows that the reader could read, and ``conversations`` counts the rows with a conversation.
    - ``turns`` describes the conversations with several turns of the user.
    """

    source: DatasetSource
    notices: tuple[Notice, ...]
    refusal: str | None = None
    rows: int = 0
    conversations: int = 0
    turns: TurnFacts = TurnFacts()


def survey_specs(specs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[Notice]]:
    """Return the specs of one spec file with surveyed datasets, and the notices. All specs must have the same datasets.

    Log each notice as a warning. Raises the errors of ``survey_dataset``, and ``ConfigError`` if a dataset does not have questions
    or all of its media are missing.
    """
    start_reports()
    forget_digests()
    first = specs[0]
    roots = find_media_roots(get_settings(), first.datasets, first.prompt.examples)
    modes = sorted({spec.prompt.asks_turns for spec in specs})
    by_mode = {mode: [survey_dataset(_set_mode(source, mode), roots) for source in first.datasets] for mode in modes}
    surveys = by_mode[modes[-1]]
    if refusals := [survey.refusal for survey in surveys if survey.refusal]:
        raise ConfigError(refusals[0])
    notices = [notice for survey in surveys for notice in survey.notices]
    if any(spec.prompt.turns or spec.prompt.template != DEFAULT for spec in specs):
        notices += _find_unused_template(surveys)
    for survey, mode in product(surveys, modes):
        notices += describe_turns(survey.source.name, survey.turns, asks_turns=mode)
    for notice in notices:
        log_notice(notice)
    sources = {mode: tuple(survey.source for survey in by_mode[mode]) for mode in modes}
    return [spec.model_copy(update={"datasets": sources[spec.prompt.asks_turns]}) for spec in specs], notices


def _set_mode(source: DatasetSource, asks_turns: bool) -> DatasetSource:
    return source.model_copy(update={"asks_turns": asks_turns})


def _find_unused_template(surveys: Sequence[Survey]) -> list[Notice]:
    """Return a notice for each dataset if no row of any dataset uses the template of the prompt."""
    if any(survey.conversations < survey.rows for survey in surveys):
        return []
    event, hint = (
        "prompt.template_unused",
        "all rows have conversations, which are sent as written; use prompt.suffix",
    )
    return [Notice(event=event, dataset=survey.source.name, rows=survey.rows, hint=hint) for survey in surveys]


def survey_dataset(source: DatasetSource, roots: Sequence[str] = ()) -> Survey:
    """Return the survey of a resolved source. ``roots`` are the folders that media may be read from.

    Raises ``ConfigError`` if no row has media, but a column that no field uses certainly contains media. Otherwise the questions
    would be sent without these media.
    """
    facts = collect_facts(source, roots)
    check_media(facts)
    refusal = find_refusal(facts)
    surveyed = facts.pin_source(reads_media=refusal is None)
    return Survey(surveyed, tuple(find_notices(facts)), refusal, facts.readable, facts.used["messages"], facts.turns)
