"""A command as a process: its start, its exit code and its interrupts."""
