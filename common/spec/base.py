"""The base of all models of user input."""

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


@dataclass(frozen=True, slots=True)
class Written:
    """The forms in which a user may write a field. It is for fields whose type shows only one form.

    ``docs/reference.md`` shows ``forms``.
    """

    forms: str


class Spec(BaseModel):
    """Base of all models of user input. An unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes, no, on and off as booleans, and Python accepts booleans as the numbers 1 and 0.
        if isinstance(value, bool) and bool not in (field := cls.model_fields[str(info.field_name)].annotation, *get_args(field)):
            raise ValueError(f"found {value}; YAML reads yes, no, on and off as booleans: quote text, write numbers as digits")
        return value
