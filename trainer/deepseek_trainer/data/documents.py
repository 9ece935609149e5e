"""What of a record is text: one field, or several that are joined.

A record that has no such text is bad; what becomes of bad records is `spec.data.onBadRecord`'s word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepseek_trainer.config import DataSpec


class BadRecord(Exception):
    """The record has no text that can be trained on; the message says why."""


@dataclass(frozen=True)
class Document:
    """A text that is trained on.

    Attributes:
        targets: ranges of characters whose tokens are to be predicted; None: all are.
    """

    text: str
    targets: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Reading:
    """How records become documents; the same wherever a part is prepared."""

    fields: tuple[str, ...]
    separator: str

    has_targets: bool = False
    """Not every token of a document is to be predicted."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is needed of a record."""
        return self.fields

    def document(self, record: Any) -> Document:
        """The document in a record, which is a text itself or an object with fields.

        Raises:
            BadRecord: there is none in it.
        """
        if isinstance(record, str):
            return Document(_valid(record))
        return Document(self.separator.join(_field(record, name) for name in self.fields))


def reading(spec: DataSpec) -> Reading:
    """How `spec.data` reads its records."""
    if spec.corpus is not None:
        return Reading(("text",), "")
    return Reading(spec.text_fields or (spec.text_field,), spec.separator)


def _field(record: Any, name: str) -> str:
    text = record.get(name) if isinstance(record, dict) else None
    if not isinstance(text, str):
        option = "textField"
        raise BadRecord(f"no text in field {name!r}; name the right one in data.{option}")
    return _valid(text)


def _valid(text: str) -> str:
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"character {error.start} of the text is half a surrogate pair, no character") from error
    return text
