"""vLLM with a dictated length for each answer, because a model with random weights never ends an answer."""

from vllm import SamplingParams

from benchmarks.gpu.questions import dictate_length
from workers.engines.base import Request
from workers.engines.vllm import VllmEngine


class DictatedLengths(VllmEngine):
    """The vLLM engine with dictated answer lengths."""

    def make_sampling_params(self, request: Request) -> SamplingParams:
        params = super().make_sampling_params(request)
        params.ignore_eos = True
        params.max_tokens = dictate_length(request.request_id, request.settings.max_tokens)
        return params
