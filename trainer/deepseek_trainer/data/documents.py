"""What of a record is text: one field, several that are joined, or a conversation through a chat template.

A record that has no such text is bad; what becomes of bad records is `spec.data.onBadRecord`'s word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_trainer.config import ConfigError, DataSpec, TokenizerSpec
from deepseek_trainer.data import chat as chat_
from deepseek_trainer.data.chat import BadConversation, Chat
from deepseek_trainer.data.tokenizer import DEEPSEEK_END_OF_TEXT, END_OF_TEXT, end_token, of_weights


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
    chat: Chat | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What is needed of a record."""
        return (self.chat.field,) if self.chat else self.fields

    @property
    def has_targets(self) -> bool:
        """Whether not every token is to be predicted."""
        return self.chat is not None and self.chat.assistant_only

    def document(self, record: Any) -> Document:
        """The document in a record, which is a text itself or an object with fields.

        Raises:
            BadRecord: there is none in it.
            DataError: the chat template can't be used.
        """
        if self.chat is not None:
            return _conversation(self.chat, record)
        if isinstance(record, str):
            return Document(_valid(record))
        option = "textField" if len(self.fields) == 1 else "textFields"
        return Document(self.separator.join(_field(record, name, option) for name in self.fields))


def reading(spec: DataSpec, tokenizer: TokenizerSpec, weights: Path | None) -> Reading:
    """How `spec.data` reads its records.

    Raises:
        ConfigError: the chat template can't be had.
    """
    if spec.corpus is not None:
        return Reading(("text",), "")
    if spec.chat is None:
        return Reading(spec.text_fields or (spec.text_field,), spec.separator)
    if spec.chat.template == "DeepSeek":
        template, begin, end = chat_.DEEPSEEK, chat_.BEGIN, _end(tokenizer, weights)
    elif weights is not None and tokenizer.kind == "initialWeights":
        template, begin, end = chat_.of_weights(weights)
    else:
        raise ConfigError(
            "data.chat.template: Tokenizer takes the chat template beside initialWeights; set trainer.task to finetune and "
            "trainer.tokenizer.kind to initialWeights, or data.chat.template to DeepSeek"
        )
    chat_.require_compiles(template)
    only = spec.chat.loss == "Assistant"
    return Reading((), "", Chat(spec.chat.messages_field, template, begin, end, assistant_only=only))


def _end(tokenizer: TokenizerSpec, weights: Path | None) -> str:
    if tokenizer.kind == "initialWeights":
        return end_token(of_weights(weights))
    return END_OF_TEXT if tokenizer.kind == "bpe" else DEEPSEEK_END_OF_TEXT


def _conversation(chat: Chat, record: Any) -> Document:
    try:
        text, targets = chat.render(record)
    except BadConversation as error:
        raise BadRecord(str(error)) from error
    return Document(_valid(text), targets)


def _field(record: Any, name: str, option: str) -> str:
    text = record.get(name) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise BadRecord(f"no text in field {name!r}; name the right one in data.{option}")
    return _valid(text)


def _valid(text: str) -> str:
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"character {error.start} of the text is half a surrogate pair, no character") from error
    return text
