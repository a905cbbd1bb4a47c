"""What we change in Celery and Flower."""
