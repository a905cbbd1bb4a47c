"""The message broker: the Celery app and its Redis transport."""
