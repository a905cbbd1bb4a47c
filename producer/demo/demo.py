"""The demo: run all steps on one machine, from dataset files to scores, without any setup.

All files are in one folder (``.fleet/demo``). The demo can be interrupted at any time; the next start continues the run.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from common.broker.app import make_app
from common.errors import ConfigError, FleetError
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.program.interrupts import hold_interrupts
from common.records import RunState
from common.settings import Settings, get_settings
from common.spec.files import read_specs
from common.spec.models import RunSpec
from common.storage.store import Store, open_store
from producer.console.scores import print_scores
from producer.console.watch import watch_run
from producer.datasets.survey import survey_specs
from producer.demo.redis_server import start_redis
from producer.evaluation.evaluate import evaluate_run
from producer.planning.requests import read_requests
from producer.results.collect import collect_rows, write_results
from producer.runs.control import resume_run
from producer.runs.enqueue import enqueue_run
from producer.runs.status import RunStatus, prepare_status

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_demo(folder: Path, console: Console) -> RunStatus:
    """Enqueue ``examples/demo.yaml``, run it with one worker on the CPU, and print the scores and the paths of the files."""
    spec_path = EXAMPLES / "demo.yaml"
    if not spec_path.is_file():
        raise ConfigError(f"{spec_path} is missing; run the demo from a clone of the repository")
    (spec,), _ = survey_specs(read_specs(spec_path))
    status = run_here(spec, folder, console)
    _conclude(status, open_store(store_url(folder)), folder, console)
    return status


def store_url(folder: Path) -> str:
    """Return the URL of the store that ``run_here`` uses."""
    return f"file://{(folder / 'store').resolve()}"


def run_here(spec: RunSpec, folder: Path, console: Console, *, retry: Collection[str] = ()) -> RunStatus:
    """Run a spec on this machine with one worker on the CPU. Return the status of the run when it has ended.

    ``folder`` contains the state of Redis, the store and the worker's log. The call can be interrupted at any time, and the next
    call continues the run. If the run has ended before this call, its samples with a status in ``retry`` are run again.
    """
    store = open_store(store_url(folder))
    with hold_interrupts(), start_redis(folder / "redis") as server, hold_interrupts(held=False):
        settings = get_settings().model_copy(update={"redis_url": SecretStr(server.url), "store_url": store_url(folder)})
        ledger = Ledger(connect_redis(settings), settings)
        enqueued = enqueue_run(spec, read_requests(spec), store, ledger, make_app(settings))
        console.print(f"Run {spec.run_id}: {enqueued.plan.samples:,} samples in {enqueued.plan.chunks} chunks.", highlight=False)
        if enqueued.state == RunState.DONE and retry:
            resume_run(spec.run_id, store, ledger, make_app(settings), retry=retry)
        read = prepare_status(spec.run_id, store, ledger)
        status = read()
        if status.state == RunState.RUNNING:
            started = one_worker(spec.model.name, settings, folder / "worker.log")
            with hold_interrupts(), started as worker, hold_interrupts(held=False):
                try:
                    status = watch_run(lambda: _read_while_alive(read, worker, folder), console)
                except KeyboardInterrupt:
                    console.print("Stopping; the worker has 5 s to finish its samples.", highlight=False)
                    raise
    return status


@contextmanager
def one_worker(model: str, settings: Settings, log_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ``workers start`` on the CPU and write its log to a file. Drain the worker at the end."""
    command = [sys.executable, "-m", "workers", "start", "--model", model, "--gpus", "none"]
    environment = {
        **os.environ,
        "FLEET_REDIS_URL": settings.redis_url.get_secret_value(),
        "FLEET_STORE_URL": settings.store_url,
        "FLEET_DRAIN_GRACE_S": "5",
    }
    with log_path.open("ab") as log:
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603  # our own command
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait()


def _read_while_alive(read: Callable[[], RunStatus], worker: "subprocess.Popen[bytes]", folder: Path) -> RunStatus:
    if (code := worker.poll()) is not None:
        raise FleetError(f"the worker exited with code {code}; see its log: {folder / 'worker.log'}")
    return read()


def _conclude(status: RunStatus, store: Store, folder: Path, console: Console) -> None:
    results = folder / "results"
    write_results(collect_rows(status.run_id, store), results)
    print_scores(evaluate_run(status.run_id, store, collect_rows(status.run_id, store)), console)
    console.print(
        f"\nResults   {results}/results.parquet and .jsonl\n"
        f"Evidence  {folder}/store/runs/{status.run_id}/ (plan, parts)\n"
        f"Log       {folder}/worker.log\n"
        f"Again     the same command shows these results; delete {folder} to start over",
        highlight=False,
        soft_wrap=True,
    )
