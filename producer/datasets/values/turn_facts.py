"""Count the rows of a dataset with several turns of the user, and describe how these turns are sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.records import Message


@dataclass
class TurnFacts:
    """Facts of the rows with several turns of the user.

    - ``several`` counts the conversations with several turns, and ``written`` those with written answers to earlier turns.
    - ``listed`` counts the questions that are lists of turns, if they are not read as conversations.
    """

    several: int = 0
    written: int = 0
    listed: int = 0

    def add_conversation(self, messages: Sequence[Message]) -> None:
        self.several += sum(message.role == "user" for message in messages) > 1
        self.written += any(message.role == "assistant" and message.content for message in messages)

    def explain(self, *, asks_turns: bool) -> str:
        """Return how the turns are sent, and the field of the prompt that determines it."""
        if not asks_turns:
            return (
                "rows have several turns of the user: each row is one request, with the written answers to its earlier turns; "
                "prompt: {multi_turn: ask} asks the turns one after the other"
            )
        unsent = f"; the written answers to the earlier turns of {self.written:,} rows are not sent" if self.written else ""
        return (
            "rows have several turns of the user: they are asked one after the other, because of prompt: {multi_turn: ask}, and "
            f"each request contains the model's own answers to the earlier turns{unsent}"
        )
