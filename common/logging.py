"""Structured logs. Call ``configure_log`` once per process, then ``structlog.get_logger()``. Secrets are masked."""

import logging
import sys

import structlog

from common.errors import ConfigError
from common.redaction import MOST_CHARACTERS, mask_record, mask_text

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # Celery refuses the other levels of `logging`

_MOST_OF_TRACEBACK = 16_000  # characters; the message of the exception comes last


def configure_log(level: str = "INFO", *, as_json: bool = False) -> None:
    """Send structlog and the standard library's logging through one renderer to standard error.

    The format is one JSON object per line with ``as_json``, coloured lines on a terminal, and otherwise plain
    ``key=value`` lines. Raises ``ConfigError`` for a level outside ``LEVELS``. Case does not matter.
    """
    if level.upper() not in LEVELS:
        raise ConfigError(f"FLEET_LOG_LEVEL: found {level!r}; expected {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if not as_json:  # plain tracebacks: rich ones show local variables, which may hold secrets
        render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                mask_event,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def mask_event(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Mask the values of a log event and limit their length, for all loggers. Run after the traceback is rendered as text."""
    del logger, name
    bounded = {key: _bound(value, _MOST_OF_TRACEBACK if key == "exception" else MOST_CHARACTERS) for key, value in event.items()}
    masked: structlog.typing.EventDict = mask_record(bounded)
    return masked


def _bound(value: object, most: int) -> object:
    """Return a value whose text has at most ``most`` characters and no control characters."""
    if isinstance(value, str):
        return mask_text(value, most=most)
    if value is None or isinstance(value, bool | int | float):
        return value
    shown = repr(mask_record(value))
    return mask_text(shown, most=most) if len(shown) > most else value
