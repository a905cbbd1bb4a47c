"""Run ids are stable: an upgraded fleet finds the runs that a store already holds."""

from pathlib import Path

import pytest

from common.spec.files import read_specs

DEMO = Path(__file__).resolve().parents[4] / "examples" / "demo.yaml"


@pytest.mark.parametrize(
    ("model", "run_id", "earlier"),
    [
        ("tiny", "tiny-d3d47bebbfcd", "tiny-d2c64277320a"),
        ("echo", "echo-094845ec7c78", "echo-70f3c87a9321"),
        ("mmada-8b", "mmada-8b-48a0a949c608", "mmada-8b-bf654fae143e"),  # the id covers its engine, an import string
        ("gemini", "gemini-d941e8a4cc1b", "gemini-f256f4881f0d"),
        ("qwen2.5-vl-7b", "qwen2.5-vl-7b-dd5849c2fd1a", "qwen2.5-vl-7b-920a9162eb6a"),
        ("internvl3-8b", "internvl3-8b-2eb6d34175b9", "internvl3-8b-be45df8ea7e3"),
    ],
)
def test_run_ids_do_not_change(model: str, run_id: str, earlier: str) -> None:
    (spec,) = read_specs(DEMO, (f"model={model}",))
    assert (spec.run_id, spec.earlier_run_id) == (run_id, earlier)
