"""Render the request of each sample at planning, so that a fault of a prompt or of a row is known before any worker starts."""

from collections import Counter
from collections.abc import Iterable, Iterator

from common.errors import ConfigError, SampleError
from common.prompts.messages import digest_request, render_messages
from common.prompts.templates import TemplateFault
from common.records import Fault, Sample
from common.spec.models import RunSpec


def render_samples(samples: Iterable[Sample], spec: RunSpec) -> Iterator[Sample]:
    """Yield each sample with the digest of its request, or with the fault that prevents the request.

    A sample that has a fault already stays unchanged. Raises ``ConfigError``, after the last sample, if the run's template
    fails for all rows of a dataset: then the template is wrong, and not the rows.
    """
    rendered: Counter[str] = Counter()
    faults: dict[str, TemplateFault] = {}
    for sample in samples:
        if sample.fault is not None:
            yield sample
            continue
        try:
            digest = digest_request(render_messages(sample, spec.prompt))
        except SampleError as error:
            if isinstance(error, TemplateFault):
                faults.setdefault(sample.dataset, error)
            yield sample.model_copy(update={"fault": Fault(code=error.code, message=f"row {sample.index}: {error}")})
        else:
            rendered[sample.dataset] += 1
            yield sample.model_copy(update={"request_digest": digest})
    for dataset, fault in faults.items():
        if not rendered[dataset]:
            raise ConfigError(f"dataset {dataset!r}: no row can be asked with the prompt of this run. {fault}")
