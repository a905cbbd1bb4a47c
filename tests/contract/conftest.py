"""The vLLM engine that the contract tests share."""

from tests.support.engines.vllm_cpu.process import vllm_host

__all__ = ["vllm_host"]  # a fixture
