"""Runs: enqueue, resume, cancel and rebuild them, and read their status."""
