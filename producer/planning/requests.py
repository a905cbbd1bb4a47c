"""Render the request of each sample at planning, so that faults of the prompt and of rows are found before a worker starts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from common.errors import ConfigError, SampleError
from common.prompts.messages import Rendered, digest_request, join_text, render_messages
from common.prompts.templates import TemplateFault
from common.records import Fault, Sample
from common.spec.models import RunSpec
from producer.datasets import read_dataset


def read_requests(spec: RunSpec) -> Iterator[Sample]:
    """Yield the samples of all datasets of a run, as ``render_samples`` does. Raises the errors of ``read_dataset``."""
    return render_samples((sample for source in spec.datasets for sample in read_dataset(source)), spec)


def render_samples(samples: Iterable[Sample], spec: RunSpec) -> Iterator[Sample]:
    """Yield each sample with the digest of its request, or with the fault that prevents the request.

    A sample that already has a fault stays unchanged. After the last sample, raises ``ConfigError`` if the run's template fails for
    all rows of a dataset, because then the template is wrong, not the rows.
    """
    asked: Counter[str] = Counter()
    faults: dict[str, TemplateFault] = {}
    for sample in samples:
        if sample.fault is not None:
            yield sample
            continue
        try:
            rendered = render_messages(sample, spec.prompt)
            _check_text(rendered)
        except SampleError as error:
            if isinstance(error, TemplateFault):
                faults.setdefault(sample.dataset, error)
            yield sample.model_copy(update={"fault": Fault(code=error.code, message=f"row {sample.index}: {error}")})
        else:
            asked[sample.dataset] += 1
            targets = list_turn_targets(sample) if rendered.turns > 1 else ()
            yield sample.model_copy(update={"request_digest": digest_request(rendered), "turn_targets": targets})
    for dataset, fault in faults.items():
        if not asked[dataset]:
            raise ConfigError(f"dataset {dataset!r}: no row can be rendered with the prompt of this run. {fault}")


def list_turn_targets(sample: Sample) -> tuple[str | None, ...]:
    """Return the written answer to each user turn of a conversation but the last turn, or nothing if it has no such answers."""
    targets: list[str | None] = []
    for first, second in pairwise(sample.messages):
        if first.role == "user":
            targets.append((join_text(second.content).strip() or None) if second.role == "assistant" else None)
    return tuple(targets) if any(targets) else ()


def _check_text(rendered: Rendered) -> None:
    """Raise ``TemplateFault`` if a message that is asked is blank, because a model would then invent a question."""
    for number, message in enumerate(rendered.messages[-rendered.turns :], start=1):
        if not any(isinstance(part, int) or part.strip() for part in message.content):
            named = f" as turn {number}" if rendered.turns > 1 else ""
            raise TemplateFault(f"the prompt gives an empty message{named} for this row; expected a text or media")
