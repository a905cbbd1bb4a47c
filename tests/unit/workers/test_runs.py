"""A worker loads runs of its own model only: a profile of the same name that means something else is refused."""

import pytest

from common.errors import ConfigError
from common.spec_files import read_profile
from tests.support.fleet import Fleet, make_rows
from workers.runs import load_run


@pytest.mark.parametrize("change", [{"weights": "other"}, {"adapter": "qwen"}, {"revision": "2"}])
def test_a_run_of_another_model_of_the_same_name_is_refused(fleet: Fleet, change: dict[str, str]) -> None:
    fleet.write_profile("echo")
    run_id = fleet.enqueue(fleet.write_spec("echo", [fleet.write_dataset("rows", make_rows(3))])).run_id
    assert load_run(fleet.store, run_id, read_profile("echo"), fleet.settings).datasets == {"rows": 0}
    other = read_profile("echo").model_copy(update=change)
    with pytest.raises(ConfigError, match=f"asks for {next(iter(change))} .* of echo, this worker's profile has"):
        load_run(fleet.store, run_id, other, fleet.settings)


def test_engine_options_may_differ_from_node_to_node(fleet: Fleet) -> None:
    fleet.write_profile("echo")
    run_id = fleet.enqueue(fleet.write_spec("echo", [fleet.write_dataset("rows", make_rows(3))])).run_id
    load_run(fleet.store, run_id, read_profile("echo").model_copy(update={"engine_options": {"delay_s": 1}}), fleet.settings)
