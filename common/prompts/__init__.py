"""Prompts: render a sample as the messages that a model gets, with their media. Producer and worker share this code."""
