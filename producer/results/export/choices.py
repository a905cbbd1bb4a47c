"""The choices of ``producer export``. This module imports nothing heavy, so that ``--help`` is fast."""

from enum import StrEnum


class TextField(StrEnum):
    """The text of an outcome that is exported (``common.records.Outcome``)."""

    PREDICTION = "prediction"
    ANSWER = "answer"
    RESPONSE = "response"


class Naming(StrEnum):
    """The origin of the name of a row's file: the name of its image file, the path of its image file, or the row's id."""

    FILE = "file"
    PATH = "path"
    ID = "id"
