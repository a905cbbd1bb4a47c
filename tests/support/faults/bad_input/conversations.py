"""Faulty conversations, options and targets of rows, and unusual rows that are valid."""

from typing import Any

from tests.support.faults.bad_input import pictures
from tests.support.faults.bad_input.cases import RowCase
from tests.support.faults.bad_input.contents import file, make_lines

_ROW = "rows.jsonl: line 2: field "
_IMAGE = file("a.png", pictures.plain())


def _refuse(name: str, given: str, row: dict[str, Any], message: str) -> RowCase:
    """Return a case of a row with an image file beside it. ``message`` follows the word ``field``."""
    return RowCase(name, given, "bad_field", _ROW + message, make_lines(row), prepare=_IMAGE)


def _accept(name: str, given: str, row: dict[str, Any], note: str) -> RowCase:
    return RowCase(name, given, "ok", note, make_lines(row))


def _say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _tell(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


CONVERSATIONS = (
    _refuse(
        "two questions without an answer between",
        "two `user` messages, one after the other",
        {"messages": [_say("user", "Why?"), _say("user", "When?")]},
        "'messages': turns 1 and 2 are both of the user; expected the turns of user and assistant to alternate; …",
    ),
    _refuse(
        "list of turns as question",
        "`\"question\": \"['Why?', 'When?']\"`",
        {"question": "['Why?', 'When?']"},
        "'question': found a list of 2 turns; expected one question; give each turn a row of its own, write the "
        "conversation, …, or set prompt: {multi_turn: ask} …",
    ),
    _refuse(
        "unknown role",
        "a message with the role `bot`",
        {"messages": [_say("user", "Why?"), _say("bot", "4")]},
        "'messages': turn 2: found 'bot' (text); expected one of the roles system, developer, human, user, gpt, assistant",
    ),
    _refuse(
        "turn of a tool",
        "a message with the role `tool`",
        {"messages": [_say("user", "Why?"), _say("tool", "4")]},
        "'messages': turn 2: found a turn of a tool ('tool'); expected one of the roles …, and no calls of tools; …",
    ),
    _refuse(
        "call of a tool",
        "a message with `tool_calls`",
        {"messages": [_say("user", "Why?"), {**_say("assistant", None), "tool_calls": [{"id": "1"}]}]},
        "'messages': turn 2: found a call of a tool in a turn of the assistant; expected …",
    ),
    _refuse(
        "conversation without a question",
        "only an answer",
        {"conversations": [_tell("gpt", "red")]},
        "'conversations': no turn is of the user; expected the first turn, after a system message, to be of the user",
    ),
    _refuse(
        "empty conversation",
        '`"conversations": []`',
        {"conversations": []},
        "'conversations': found [] (a list); expected a list of turns, each with role and content, or with from and value",
    ),
    _refuse(
        "conversation as text",
        '`"messages": "Why?"`',
        {"messages": "Why?"},
        "'messages': found 'Why?' (text); expected a list of turns, each with role and content, or with from and value",
    ),
    _refuse(
        "marker without an image",
        "`<image>` in a conversation without an image",
        {"conversations": [_tell("human", "<image>\nWhat is it?")]},
        "'conversations': <image> has no image, because the row has 0; expected one for each marker and part",
    ),
    _refuse(
        "more markers than images",
        "two `<image>` and one image",
        {"image": "a.png", "conversations": [_tell("human", "<image>\n<image>\nWhich?")]},
        "'conversations': <image> has no image, because the row has 1; expected one for each marker and part",
    ),
    _refuse(
        "marker in an earlier answer",
        "`<image>` in an earlier turn of the assistant",
        {"image": "a.png", "conversations": [_tell("human", "Draw."), _tell("gpt", "<image>"), _tell("human", "What is it?")]},
        "'conversations': turn 2: found <image> in a turn of the assistant; expected media in the turns of the user only",
    ),
    _refuse(
        "sound in a message",
        "a part of the type `input_audio`",
        {"messages": [_say("user", [{"type": "input_audio"}])]},
        "'messages': turn 1: found {'type': 'input_audio'} (an object); expected a part of type text, …",
    ),
    _refuse(
        "empty message",
        "a message of spaces",
        {"messages": [_say("user", "Why?"), _say("assistant", " "), _say("user", "When?")]},
        "'messages': turn 2 is empty; expected a text or media",
    ),
    _refuse(
        "late system message",
        "a `system` message after a question",
        {"messages": [_say("user", "Why?"), _say("system", "Be brief.")]},
        "'messages': turn 2 is a system message; expected it as turn 1 only",
    ),
    _refuse(
        "number that names two options",
        '`"choices": ["1", "2", "3"], "answer": 1`',
        {"question": "Which?", "choices": ["1", "2", "3"], "answer": 1},
        "'answer': found 1, which is the position of option B (counted from 0) and the text of option A; …",
    ),
    _refuse(
        "position after the last option",
        '`"choices": ["cat", "dog"], "answer": 2`',
        {"question": "Which?", "choices": ["cat", "dog"], "answer": 2},
        "'answer': found 2; expected the position of an option from 0 to 1, one of the letters A, B, or one option's text",
    ),
    _refuse(
        "options as NumPy prints them",
        "`\"choices\": \"['cat' 'dog']\"`",
        {"question": "Which?", "choices": "['cat' 'dog']", "answer": "cat"},
        """'choices': found "['cat' 'dog']" (text); expected a mapping of letters to texts, or a list of texts""",
    ),
    _refuse(
        "multiple choice without options",
        '`"question_type": "multi_choice", "choices": null` of MathVista',
        {"question": "Which?", "question_type": "multi_choice", "answer_type": "text", "choices": None, "answer": "B"},
        "'question_type': found 'multi_choice', and the row has no options; expected them in choices",
    ),
    _refuse(
        "image object without an image",
        '`"image": {"bytes": null, "path": null}`',
        {"question": "What is it?", "image": {"bytes": None, "path": None}},
        "'image': found {'bytes': None, 'path': None} (an object); expected an object with one of bytes, url and path",
    ),
    RowCase(
        "conversation with an answer",
        "turns of LLaVA with an image",
        "ok",
        "sent with the image at the place of the marker; the answer is the target",
        make_lines({"image": "a.png", "conversations": [_tell("human", "<image>\nWhat is it?"), _tell("gpt", "ok")]}),
        prepare=_IMAGE,
        seen="8x6 #ff0000",
    ),
    _accept(
        "conversation as a literal",
        "messages as the text of a Python list",
        {"messages": repr([_say("user", "Why?"), _say("assistant", "ok")])},
        "sent as messages",
    ),
    _accept(
        "marker without any media",
        "`What does the tag <image> mean?`",
        {"question": "What does the tag <image> mean?"},
        "sent unchanged, because a question may be about the tag",
    ),
    _accept(
        "options as a literal",
        "`\"choices\": \"['0.50', 'None']\"`",
        {"question": "Which?", "choices": "['0.50', 'None']", "answer": "None"},
        "two options, exactly as written",
    ),
    RowCase(
        "rows with the same request",
        "one question in two splits",
        "ok",
        "sent once; each row has its own result",
        make_lines({"id": 1, "question": "Why?", "split": "train"}, {"id": 2, "question": "Why?", "split": "test"}),
        duplicates=1,
    ),
    _accept(
        "developer role",
        "a first message with OpenAI's role `developer`",
        {"messages": [_say("developer", "Be brief."), _say("user", "Why?")]},
        "sent as the system message",
    ),
)
