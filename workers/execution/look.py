"""Look at a chunk: run it if it is there to be run.  Whatever happens inside becomes a word.

In Celery's threads pool a ``SystemExit``, ``KeyboardInterrupt``, ``CancelledError`` or ``MemoryError`` that leaves a task
kills its thread for good, so none is let out.
"""

import structlog
from kombu.exceptions import OperationalError
from obstore.exceptions import BaseError as StoreFailure
from redis.exceptions import RedisError

from common.errors import ConfigError, IntegrityError, LeaseLost, TransientError
from common.storage.store import MissingObject
from workers.execution.chunk import run_chunk
from workers.runtime.worker import Slot

log = structlog.get_logger()


def look(slot: Slot, run_id: str, chunk: int, *, at_once: bool = False) -> str:
    """Run a chunk if it is there to be run; return in a word what became of it.

    ``at_once`` is for a chunk that has waited for long enough: its holder died.
    """
    note = log.bind(run_id=run_id, chunk=chunk)
    try:
        if not _names_a_chunk(slot, run_id, chunk):
            note.warning("no such chunk; the message is ignored")
            return "unknown"
        became = run_chunk(slot, run_id, chunk, at_once=at_once)
    except LeaseLost as error:
        note.info("lease lost", reason=str(error))
        return "lost"
    except (TransientError, RedisError, StoreFailure, OperationalError) as error:
        # Nobody's fault: the chunk is tried again a little later.
        note.warning("service away; the chunk will be tried again", error=str(error))
        slot.trouble = str(error)
        return "away"
    except (ConfigError, MissingObject, IntegrityError) as error:
        paused = slot.ledger.pause_run(run_id, f"{slot.name}: {error}")
        note.error("run paused" if paused else "no such run; the message is ignored", error=str(error))
        return "failed"
    except BaseException as error:  # noqa: BLE001  # see above: whatever leaves a task kills its thread
        note.exception("chunk failed; it will be tried again", error_type=type(error).__name__)
        return "failed"
    if became == "done":
        slot.trouble = None
    return became


def _names_a_chunk(slot: Slot, run_id: object, chunk: object) -> bool:
    """Return whether a message's ids are a planned run's; a message is only a doorbell and must not harm a run."""
    return isinstance(run_id, str) and isinstance(chunk, int) and slot.load_run(run_id).has_chunk(slot.store, chunk)
