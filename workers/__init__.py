"""GPU-pinned Celery workers: they run chunks through an engine, check every answer and write parts."""
