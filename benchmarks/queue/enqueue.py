"""Enqueue a spec in a separate process and print its time and peak memory as JSON. Part of ``benchmarks.queue``."""

import json
import resource
import sys
import time
from pathlib import Path

from common.broker.app import make_app
from common.ledger.connection import connect_redis
from common.ledger.ledger import Ledger
from common.settings import get_settings
from common.spec.files import read_specs
from common.storage.store import open_store
from producer.planning.requests import read_requests
from producer.runs.enqueue import enqueue_run


def main() -> None:
    settings = get_settings()
    begun_at = time.perf_counter()
    (spec,) = read_specs(Path(sys.argv[1]))
    enqueue_run(
        spec, read_requests(spec), open_store(settings.store_url), Ledger(connect_redis(settings), settings), make_app(settings)
    )
    seconds = time.perf_counter() - begun_at
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"run_id": spec.run_id, "seconds": seconds, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
