"""The engine for OpenAI-style endpoints."""
