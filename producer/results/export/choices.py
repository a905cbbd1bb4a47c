"""The values of the options of ``producer export``. This module does not import large libraries, so that ``--help`` is fast."""

from enum import StrEnum


class TextField(StrEnum):
    """The text of an outcome that is exported (``common.records.Outcome``)."""

    PREDICTION = "prediction"
    ANSWER = "answer"
    RESPONSE = "response"


class Naming(StrEnum):
    """The source of the name of a row's exported file: the name of its image file, the path of its image file, or the row's id."""

    FILE = "file"
    PATH = "path"
    ID = "id"
