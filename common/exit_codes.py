"""Exit codes of commands and workers. The launcher and users' scripts compare them. ``docs/reference.md`` shows the comments."""

import os

NOT_ALL_OK = 1  # the run ended with samples that are not ok, or an error occurred
USER_MUST_ACT = 2  # the user must change something before a retry can help
UNREACHABLE = 3  # Redis or the store does not respond
ENGINE_DIED = 70  # the worker's engine crashed; the launcher starts a new process
ENGINE_KILLED = 72  # another process ended the worker's engine, or the engine ended while the worker drained
NOT_STARTED = os.EX_OSERR  # the system could not start a worker process
INTERRUPTED = 130  # Ctrl+C or SIGTERM
