"""The engine for endpoints with OpenAI's chat-completions API."""
