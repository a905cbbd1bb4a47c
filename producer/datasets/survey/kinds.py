"""The question kind of a dataset's rows without options."""

from dataclasses import dataclass, field

from common.records import Kind
from producer.datasets.fields import are_yes_no, is_number


@dataclass
class Kinds:
    """The accepted answers of rows without options and without a kind field."""

    rows: int = 0
    answered: int = 0
    yes_no: int = 0
    numbers: int = 0
    format_kinds: dict[bool, set[Kind | None]] = field(default_factory=dict)  # the keys: rows with and without answers

    def add(self, target: tuple[str, ...], format_kind: Kind | None) -> None:
        self.rows += 1
        self.format_kinds.setdefault(bool(target), set()).add(format_kind)
        if target:
            self.answered += 1
            self.yes_no += are_yes_no(target)
            self.numbers += all(is_number(text) for text in target)

    def find_kind(self) -> Kind | None:
        """Return the kind of all these rows, or None if there are no such rows.

        A row's own target does not determine its kind, because the wording of its prompt would then reveal the target.
        """
        if not self.rows:
            return None
        if self.answered and self.yes_no == self.answered:
            return "yes_no"
        given = self.format_kinds[bool(self.answered)]
        if (kind := next(iter(given)) if len(given) == 1 else None) or not self.answered:
            return kind or "free_text"
        return "number" if self.numbers == self.answered else "short_text"
