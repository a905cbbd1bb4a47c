"""Prompts: from a sample to the messages that a model gets, with its media in place. Producer and worker share this code."""
