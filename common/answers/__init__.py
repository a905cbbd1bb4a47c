"""Answers as text: how an answer is read, validated and recognised as a refusal. Pure, and shared by both sides."""
