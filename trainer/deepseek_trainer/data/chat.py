"""Conversations as text, by a chat template, and which characters of it an assistant said.

A template is Jinja of unknown origin, as it lies beside a model's weights: it runs in Jinja's sandbox, sees nothing but
the messages and the names of two tokens, and knows no date, so that it gives the same text every day.

What the assistant said is found exactly, or the template is refused: from its `{% generation %}` marks where it has
them; else the conversation is rendered up to each answer, without it and with it, and each of these texts must begin
the next one.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from deepseek_trainer.config import ConfigError
from deepseek_trainer.errors import DataError

BEGIN, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"  # noqa: RUF001  DeepSeek's own spelling
DEEPSEEK = """\
{{ bos_token }}
{%- for message in messages if message.role == 'system' %}{{ message.content }}{% endfor %}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'user' %}{{ USER }}{{ message.content }}
    {%- elif message.role == 'assistant' %}
        {{- ASSISTANT }}{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
    {%- else %}{{ raise_exception("role " ~ message.role ~ " is none of system, user and assistant") }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ ASSISTANT }}{% endif %}""".replace("USER", repr(USER)).replace(
    "ASSISTANT", repr(ASSISTANT)
)
"""The published format of DeepSeek's chat models: what is said to the model first, then turns behind their marks."""

MESSAGES_MAX = 1024
CHARACTERS_MAX = 2**24
_OPEN, _CLOSE = (f"\x02{secrets.token_hex(16)}{end}" for end in "[]")
"""Around what the assistant says, in this process alone: no message can know them."""

Spans = tuple[tuple[int, int], ...]


class BadConversation(Exception):
    """The record's messages can't be rendered; the message says why."""


@dataclass(frozen=True)
class Chat:
    """How a record's messages become text.

    Attributes:
        template: the Jinja source.
        assistant_only: only what the assistant says is to be predicted.
    """

    field: str
    template: str
    bos_token: str
    eos_token: str
    assistant_only: bool

    def render(self, record: Any) -> tuple[str, Spans | None]:
        """The text of a record, and the ranges of characters to be predicted; None: all.

        Raises:
            BadConversation: the record has no messages, or none that the template takes.
            DataError: the template doesn't tell what the assistant says.
        """
        messages = _messages(record, self.field)
        if not self.assistant_only:
            return _without_marks(self._render(messages))[0], None
        if all(message["role"] != "assistant" for message in messages):
            raise BadConversation("no message has the role assistant, so there is nothing to be predicted")
        if _has_marks(self.template):
            return _without_marks(self._render(messages))
        return self._by_prefixes(messages)

    def _by_prefixes(self, messages: list[dict[str, str]]) -> tuple[str, Spans]:
        whole, spans = self._render(messages), []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                asked = self._render(messages[:i], add_generation_prompt=True)
                answered = self._render(messages[: i + 1])
                if not (answered.startswith(asked) and whole.startswith(answered)):
                    raise DataError(
                        "data.chat: from this template it can't be told which tokens are the assistant's, because it writes "
                        f"message {i + 1} or what is before it in another way once more follows; mark the assistant's text in it "
                        "with {% generation %} … {% endgeneration %}, or set data.chat.loss to All, or template to DeepSeek"
                    )
                spans.append((len(asked), len(answered)))
        return whole, tuple(spans)

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        try:
            return _compiled(self.template).render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
                tools=None,
                documents=None,
            )
        except Exception as error:  # a template may fail in any way
            raise BadConversation(f"the chat template refuses it: {error or type(error).__name__}") from error


def of_weights(folder: Path) -> tuple[str, str, str]:
    """Template, bos_token and eos_token of a model.

    Raises:
        ConfigError: it has no template, or one that can't be read.
    """
    file = folder / "tokenizer_config.json"
    try:
        config = json.loads(file.read_bytes()) if file.exists() else {}
        lying = folder / "chat_template.jinja"
        template = lying.read_text(encoding="utf-8") if lying.exists() else config.get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"data.chat.template: {file} can't be read: {error}") from error
    if isinstance(template, list):  # several, each with a name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        raise ConfigError(
            f"data.chat.template: there is no chat template in {folder}/tokenizer_config.json or chat_template.jinja; put "
            "one there, or set data.chat.template to DeepSeek"
        )
    return template, _token(config, "bos_token"), _token(config, "eos_token")


def require_compiles(template: str) -> None:
    """
    Raises:
        ConfigError: the template is no Jinja.
    """
    try:
        _compiled(template)
    except jinja2.TemplateError as error:
        raise ConfigError(f"data.chat.template: the chat template is no Jinja: {error}") from error


def _token(config: dict[str, Any], name: str) -> str:
    token = config.get(name)
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _messages(record: Any, field: str) -> list[dict[str, str]]:
    messages = record.get(field) if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise BadConversation(f"no list of messages in field {field!r}; name the right one in data.chat.messagesField")
    if len(messages) > MESSAGES_MAX:
        raise BadConversation(f"{len(messages)} messages, of which {MESSAGES_MAX} are allowed")
    found = []
    for number, message in enumerate(messages, start=1):
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if not (isinstance(role, str) and role and isinstance(content, str)):
            raise BadConversation(f"message {number} has no role and content that are text")
        found.append({"role": role, "content": content})
    if sum(len(message["content"]) for message in found) > CHARACTERS_MAX:
        raise BadConversation(f"the messages have more than {CHARACTERS_MAX} characters")
    return found


def _has_marks(template: str) -> bool:
    return re.search(r"\{%[-+]?\s*generation\b", template) is not None


def _without_marks(rendered: str) -> tuple[str, Spans]:
    first, *marked = rendered.split(_OPEN)
    text, spans = [first], []
    length = len(first)
    for piece in marked:
        said, _, rest = piece.partition(_CLOSE)
        spans.append((length, length + len(said)))
        text += [said, rest]
        length += len(said) + len(rest)
    return "".join(text), tuple(spans)


class _Generation(Extension):
    """The tag `generation`, which marks what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


@functools.lru_cache(maxsize=4)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
