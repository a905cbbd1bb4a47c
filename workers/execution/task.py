"""Run the chunk that a message names. Every result and every error becomes a ``ChunkResult``. Exceptions do not leave the task.

In Celery's threads pool a ``SystemExit``, ``KeyboardInterrupt``, ``CancelledError`` or ``MemoryError`` that leaves a task
kills its thread permanently.
"""

import structlog
from kombu.exceptions import OperationalError
from obstore.exceptions import BaseError as StoreFailure
from redis.exceptions import RedisError

from common.digests import is_run_id
from common.errors import ConfigError, IntegrityError, LeaseLost, TransientError
from common.storage.store import MissingObject
from workers.execution.chunk import ChunkResult, run_chunk
from workers.runtime.worker import Worker

log = structlog.get_logger()

_MOST_CHUNKS = 10**8  # a part's key has 8 digits for the chunk


def run_task(worker: Worker, run_id: str, chunk: int, *, at_once: bool = False) -> ChunkResult:
    """Run a chunk unless it is done, held or unknown. Return the result.

    ``at_once`` skips admission, for a chunk whose holder died, because it has waited long enough.
    """
    if not (is_run_id(run_id) and _is_chunk_number(chunk)):
        log.warning("message.ignored", reason="its arguments are not a run id and a chunk number")
        return ChunkResult.UNKNOWN
    chunk_log = log.bind(run_id=run_id, chunk=chunk)
    try:
        if not worker.runs.load(run_id).has_chunk(worker.store, chunk):
            chunk_log.warning("message.ignored", reason="the run has no such chunk")
            return ChunkResult.UNKNOWN
        result = run_chunk(worker, run_id, chunk, at_once=at_once)
    except LeaseLost as error:
        chunk_log.info("lease.lost", reason=str(error))
        return ChunkResult.LOST
    except (TransientError, RedisError, StoreFailure, OperationalError) as error:
        # A service is unreachable. The chunk was given back and is offered again after one lease time.
        chunk_log.warning("chunk.postponed", error=str(error))
        worker.trouble = str(error)
        return ChunkResult.AWAY
    except (ConfigError, MissingObject, IntegrityError) as error:
        if worker.ledger.pause_run(run_id, f"{worker.name}: {error}"):
            chunk_log.error("run.paused", error=str(error))  # the message names the cause, a traceback would hide it
        else:
            chunk_log.error("message.ignored", reason="no such run", error=str(error))  # as above
        return ChunkResult.FAILED
    except BaseException as error:  # noqa: BLE001  # an exception that leaves a task kills its thread, see above
        chunk_log.exception("chunk.failed", error_type=type(error).__name__)
        return ChunkResult.FAILED
    if result == ChunkResult.DONE:
        worker.trouble = None
    return result


def _is_chunk_number(value: object) -> bool:
    """Return whether ``value`` can be a chunk's number. ``True`` is an ``int`` in Python but not a chunk's number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_CHUNKS
