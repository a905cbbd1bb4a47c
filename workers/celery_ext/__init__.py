"""Changes to Celery and Flower: the consumer, the signals and the dashboard."""
