"""The message broker: the Celery app and the transport that carries its messages."""
