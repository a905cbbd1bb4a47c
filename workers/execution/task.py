"""The one Celery task: look at a chunk."""

from common.broker.app import TASK_NAME
from workers.app import app, current_slot
from workers.execution.look import look


@app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]  # Celery has no types
def look_at_chunk(run_id: str, chunk: int) -> str:
    """Run a chunk if it is there to be run; return in a word what became of it."""
    return look(current_slot(), run_id, chunk)
