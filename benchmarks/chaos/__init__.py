"""Seeded faults against a real fleet, counted."""
