"""A complete run with its store on a real S3 server."""

from pathlib import Path

import pytest

from tests.support.fleet import make_rows, start_fleet
from tests.support.soundness import assert_run_is_sound


def test_run_on_s3_completes_and_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_url: str) -> None:
    with start_fleet(tmp_path, monkeypatch, store_url=s3_url) as fleet:
        fleet.write_profile("echo")
        spec = fleet.write_spec("echo", [fleet.write_dataset("rows", make_rows(150))], chunks={"max_samples": 16})
        run_id = fleet.enqueue(spec).run_id
        fleet.start_workers("echo")
        assert fleet.wait_for_end(run_id).samples.ok == 150
        assert len(assert_run_is_sound(fleet, run_id)) == 150
        assert '"ok": 150' in fleet.run_producer("collect", run_id, "--out", str(tmp_path / "out"), "--json")
