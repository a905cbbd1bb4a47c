"""The producer: plan and enqueue runs, show their progress, collect and score their outcomes."""
