"""Memory statistics of a process on Linux."""

from pathlib import Path


def read_memory_bytes(pid: int, field: str) -> int:
    """Return one memory statistic from ``/proc/PID/status``, for example ``VmHWM``, the peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
