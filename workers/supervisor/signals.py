"""Signals that drain the fleet's processes."""

import signal

# SIGHUP: the terminal was closed. SIGUSR1: a batch system announces the end of its time (sbatch --signal=USR1@120).
DRAINING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
