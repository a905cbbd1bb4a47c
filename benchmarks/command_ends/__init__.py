"""Ends of commands under CPU load: by themselves, with Ctrl+C and with SIGTERM."""
