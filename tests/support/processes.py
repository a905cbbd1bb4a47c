"""Memory figures of a process from Linux."""

from pathlib import Path


def read_memory_bytes(pid: int, field: str) -> int:
    """Return one of the memory figures in ``/proc/PID/status``, for example ``VmHWM``, the peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
