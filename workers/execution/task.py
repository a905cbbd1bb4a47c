"""Run the chunk that a message names.  Every end becomes a ``ChunkResult``; no exception leaves the task.

In Celery's threads pool a ``SystemExit``, ``KeyboardInterrupt``, ``CancelledError`` or ``MemoryError`` that leaves a task
kills its thread permanently.
"""

import structlog
from kombu.exceptions import OperationalError
from obstore.exceptions import BaseError as StoreFailure
from redis.exceptions import RedisError

from common.errors import ConfigError, IntegrityError, LeaseLost, TransientError
from common.storage.store import MissingObject
from workers.execution.chunk import ChunkResult, run_chunk
from workers.runtime.worker import Worker

log = structlog.get_logger()


def run_task(worker: Worker, run_id: str, chunk: int, *, at_once: bool = False) -> ChunkResult:
    """Run a chunk unless it is done, held or unknown.  Return what became of it.

    ``at_once`` skips admission, for a chunk whose holder died and that has waited long enough.
    """
    chunk_log = log.bind(run_id=run_id, chunk=chunk)
    try:
        if not _is_planned(worker, run_id, chunk):
            chunk_log.warning("message.ignored", reason="the run has no such chunk")
            return ChunkResult.UNKNOWN
        result = run_chunk(worker, run_id, chunk, at_once=at_once)
    except LeaseLost as error:
        chunk_log.info("lease.lost", reason=str(error))
        return ChunkResult.LOST
    except (TransientError, RedisError, StoreFailure, OperationalError) as error:
        # A service is unreachable.  The chunk was given back and is offered again after a lease.
        chunk_log.warning("chunk.postponed", error=str(error))
        worker.trouble = str(error)
        return ChunkResult.AWAY
    except (ConfigError, MissingObject, IntegrityError) as error:
        if worker.ledger.pause_run(run_id, f"{worker.name}: {error}"):
            chunk_log.error("run.paused", error=str(error))  # the message names the cause, a traceback would hide it
        else:
            chunk_log.error("message.ignored", reason="no such run", error=str(error))  # as above
        return ChunkResult.FAILED
    except BaseException as error:  # noqa: BLE001  # what leaves a task kills its thread, see above
        chunk_log.exception("chunk.failed", error_type=type(error).__name__)
        return ChunkResult.FAILED
    if result == ChunkResult.DONE:
        worker.trouble = None
    return result


def _is_planned(worker: Worker, run_id: object, chunk: object) -> bool:
    """Return whether the ids of a message name a planned chunk.  A message is only a doorbell and must not harm a run."""
    return isinstance(run_id, str) and isinstance(chunk, int) and worker.runs.load(run_id).has_chunk(worker.store, chunk)
