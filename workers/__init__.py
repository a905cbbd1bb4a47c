"""GPU-pinned Celery workers: they run chunks through an engine, validate every answer and write parts."""
