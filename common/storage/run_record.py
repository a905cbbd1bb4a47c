"""The record of a run, ``run.json``, and the planned run in the store."""

import json
import time
from dataclasses import dataclass, replace
from typing import Any, Self

from common.digests import digest_record
from common.errors import ConfigError, IntegrityError
from common.records import Plan
from common.redaction import mask_record
from common.spec.models import RunSpec
from common.storage.keys import run_key
from common.storage.plan_index import WRITE_AGAIN, ChunkIndex, read_index
from common.storage.store import MissingObject, Store


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A planned run: its spec, the counts of its plan, and the index of the chunks of all waves."""

    spec: RunSpec
    plan: Plan
    index: ChunkIndex

    @property
    def run_id(self) -> str:
        return self.plan.run_id

    def reload_index(self, store: Store) -> Self:
        """Return the run with the current index from the store. Another producer may have added a wave."""
        return replace(self, index=read_index(store, self.run_id))


def load_planned_run(store: Store, run_id: str) -> PlannedRun:
    """Read a planned run from the store.

    Raises ``ConfigError`` if the store does not have the run, and ``IntegrityError`` if its record or an index is damaged.
    """
    spec, plan = read_run(store, run_id)
    return PlannedRun(spec, plan, read_index(store, run_id))


def encode_run(spec: RunSpec, plan: Plan, created_s: float) -> bytes:
    """Return the content of ``run.json``: the spec and the counts of the plan."""
    record: dict[str, Any] = {
        "run_id": plan.run_id,
        "created_s": created_s,
        "plan": plan.model_dump(mode="json"),
        "spec": spec.model_dump(mode="json"),
    }
    # The record stores the run id, so masking the options does not change the id. A profile with a visible secret was rejected
    # before this point.
    record["spec"]["model"]["engine_options"] = mask_record(spec.model.engine_options)
    return json.dumps({**record, "digest": digest_record(record)}, indent=2, ensure_ascii=False).encode()


def write_run(spec: RunSpec, plan: Plan, store: Store) -> None:
    """Write ``run.json``. An existing record is replaced only if it is damaged, or if an earlier version wrote another plan."""
    record = encode_run(spec, plan, time.time())
    if not store.put_new(run_key(spec.run_id), record):
        try:
            is_same = read_run(store, spec.run_id)[1] == plan
        except IntegrityError:
            is_same = False
        if not is_same:
            store.put(run_key(spec.run_id), record)


def read_run(store: Store, run_id: str) -> tuple[RunSpec, Plan]:
    """Return the spec and the plan of a run.

    Raises ``ConfigError`` if the store does not have the run, and ``IntegrityError`` if its record is damaged.
    """
    try:
        record = json.loads(store.get(run_key(run_id)))
        if record.pop("digest") != digest_record(record) or record["run_id"] != run_id:
            raise ValueError("its digest does not match its content")
        return RunSpec.model_validate(record["spec"]), Plan.model_validate(record["plan"])
    except MissingObject:
        raise ConfigError(f"no run {run_id!r} in {store.url}; set FLEET_STORE_URL to the store that it was enqueued in") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{run_key(run_id)} is not a valid run record ({error}); {WRITE_AGAIN}") from error
