"""The signals that drain the processes of the fleet."""

import signal

# SIGHUP: the terminal was closed. SIGUSR1: a batch system announces the time limit of the job (sbatch --signal=USR1@120).
DRAINING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
