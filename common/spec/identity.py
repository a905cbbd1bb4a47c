"""The engine options that identify a run, and the capacity options, which only adapt the engine to a machine.

An engine option identifies a run unless ``CAPACITY_OPTIONS`` lists it, because an unknown option may change an answer.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final


class Capacity(StrEnum):
    """The property that a capacity option sets. It does not change an answer, so the option is not part of a run's identity."""

    MEMORY = "memory"
    PARALLELISM = "how the model is divided among devices, and which devices"
    BATCHING = "how many requests or tokens are computed together"
    GRAPHS = "CUDA graph capture"
    PACING = "when requests start, and how long to wait for one"
    LOADING = "where files are kept while they are loaded, and how long loading takes"
    REPORTING = "logs and counters"


CAPACITY_OPTIONS: Final[Mapping[str, Mapping[Capacity, frozenset[str]]]] = {
    "vllm": {
        Capacity.MEMORY: frozenset({
            "cpu_offload_gb", "gpu_memory_utilization", "kv_cache_memory_bytes", "kv_offloading_backend", "kv_offloading_size",
            "mm_processor_cache_gb", "mm_processor_cache_type", "mm_shm_cache_max_object_size_mb", "num_gpu_blocks_override",
            "skip_mm_profiling",
        }),
        Capacity.PARALLELISM: frozenset({
            "data_parallel_address", "data_parallel_backend", "data_parallel_rank", "data_parallel_rpc_port", "data_parallel_size",
            "data_parallel_size_local", "data_parallel_start_rank", "decode_context_parallel_size", "disable_custom_all_reduce",
            "distributed_executor_backend", "distributed_timeout_seconds", "enable_expert_parallel", "master_addr", "master_port",
            "mm_encoder_tp_mode", "nnodes", "node_rank", "pipeline_parallel_size", "prefill_context_parallel_size",
            "renderer_num_workers", "tensor_parallel_size",
        }),
        Capacity.BATCHING: frozenset({
            "async_scheduling", "disable_chunked_mm_input", "enable_chunked_prefill", "long_prefill_token_threshold",
            "max_num_batched_tokens", "max_num_seqs", "stream_interval",
        }),
        Capacity.GRAPHS: frozenset({"cudagraph_capture_sizes", "enforce_eager", "max_cudagraph_capture_size"}),
        Capacity.LOADING: frozenset({"download_dir", "max_parallel_loading_workers", "safetensors_load_strategy"}),
        Capacity.REPORTING: frozenset({"disable_log_stats", "enable_log_requests", "use_tqdm_on_load"}),
    },
    "hf": {
        Capacity.PARALLELISM: frozenset({"device"}),
        Capacity.BATCHING: frozenset({"max_batch_size"}),
    },
    "openai": {
        Capacity.BATCHING: frozenset({"concurrency"}),
        Capacity.PACING: frozenset({"api_key_env", "patience_s", "request_delay_s", "requests_per_minute", "timeout_s"}),
    },
    "echo": {
        Capacity.PACING: frozenset({"delay_s"}),
        Capacity.LOADING: frozenset({"load_s"}),
    },
    "mmada": {},
}  # fmt: skip

# A profile may also give a built-in engine by its import string, such as workers.engines.hf.engine:HfEngine.
_BUILT_IN = "workers.engines."
_CLASSES = {"EchoEngine": "echo", "HfEngine": "hf", "MmadaEngine": "mmada", "OpenAIEngine": "openai", "VllmEngine": "vllm"}


def find_engine_name(engine: str) -> str:
    """Return the short name of a built-in engine for its import string. Return any other text unchanged."""
    return _CLASSES.get(engine.partition(":")[2], engine) if engine.startswith(_BUILT_IN) else engine


def list_capacity_options(engine: str) -> frozenset[str]:
    """Return the capacity options of an engine. The set is empty for an engine that is not built in."""
    return frozenset[str]().union(*CAPACITY_OPTIONS.get(find_engine_name(engine), {}).values())


def select_identity_options(engine: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine options that identify a run: all options except the capacity options of the engine."""
    capacity = list_capacity_options(engine)
    return {name: value for name, value in options.items() if name not in capacity}
