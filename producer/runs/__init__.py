"""Runs: enqueue, resume, cancel and rebuild runs, and read their status."""
