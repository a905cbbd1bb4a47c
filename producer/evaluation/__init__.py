"""Evaluation: compare predictions with targets and aggregate the scores."""
