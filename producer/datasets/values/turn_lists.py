"""Questions that are lists of turns, as in the multi-turn datasets of VLMEvalKit (source: ``vlmeval/dataset/image_mt.py``).

``question`` lists the turns of the user, and ``answer`` lists one written answer for each. ``<ImageHere>`` in a turn stands for the
next image of the row.
"""

from typing import Any, NamedTuple

from common.errors import SampleError
from producer.datasets.fields import misfit, to_plain_text
from producer.datasets.values.literals import read_literal, read_texts

_MARKER = "<ImageHere>"


class TurnList(NamedTuple):
    """The turns of the user, and the value of their written answers. ``answers`` is None if the row does not have them.

    ``answers_name`` is the name of the field of the answers in the file.
    """

    questions: list[str]
    answers: Any
    answers_name: str = ""

    def list_messages(self) -> list[dict[str, Any]]:
        """Return the turns as messages with role and content. Raises ``SampleError`` for another number of answers."""
        messages: list[dict[str, Any]] = []
        for question, answer in zip(self.questions, self._list_answers(), strict=True):
            messages.append({"role": "user", "content": _split_question(question)})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        return messages

    def _list_answers(self) -> list[str | None]:
        answers = self.answers
        if isinstance(answers, str):
            answers = read_literal(answers) or answers.strip() or None
        if answers is None:
            return [None] * len(self.questions)
        if not isinstance(answers, list):
            raise misfit(answers, f"a list of {len(self.questions)} answers, one for each turn of the question")
        if len(answers) != len(self.questions):
            found = f"found {len(self.questions)} turns in the question and {len(answers)} answers"
            raise SampleError("bad_field", f"{found}; expected one answer for each turn; write '' for an unknown answer")
        return ["" if answer is None else to_plain_text(answer) for answer in answers]


def find_turns(value: Any) -> list[str] | None:
    """Return the turns if a question is a list of texts, or a text that spells one. Otherwise return None."""
    if isinstance(value, str):
        return read_texts(value)
    is_list = isinstance(value, list) and value and all(isinstance(turn, str) for turn in value)
    return value if is_list else None


def join_turns(found: dict[str, tuple[str, Any]]) -> None:
    """Replace the fields ``question`` and ``target`` by ``messages``, if the question is a list of turns."""
    name, value = found.get("question", ("", None))
    questions = find_turns(value)
    if questions and "messages" not in found:
        del found["question"]
        answers_name, answers = found.pop("target", ("", None))
        found["messages"] = (name, TurnList(questions, answers, answers_name))


def _split_question(question: str) -> list[str | dict[str, str]]:
    first, *others = question.split(_MARKER)
    return [first, *(part for text in others for part in ({"type": "image"}, text))]
