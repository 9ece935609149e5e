"""Conversations: what becomes of them as text, which tokens are to be predicted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.config import ConfigError, RunConfig
from deepseek_trainer.data import chat, store
from deepseek_trainer.data.chat import BadConversation, Chat
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.data.store import TokenStore
from deepseek_trainer.errors import DataError
from support import corpora
from tokenizers import Tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 深度?"},
    {"role": "assistant", "content": "Depth."},
    {"role": "user", "content": "Thanks, and <|x|> é?"},
    {"role": "assistant", "content": "A letter 🐳."},
]
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
MARKED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{%- generation -%}{{ m.content }}</s>"
    "{%- endgeneration -%}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
REWRITING = "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last else '…' }}</s>{% endfor %}"
PROMPTING = PLAIN.replace("[assistant]{% endif", "[assistant]<think>{% endif")


def rendered(template: str, messages: Any = TALK, *, assistant_only: bool = True) -> tuple[str, list[str] | None]:
    """The text, and the parts of it that are to be predicted."""
    made = Chat("messages", template, "<s>", "</s>", assistant_only)
    text, spans = made.render({"messages": messages})
    return text, None if spans is None else [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_what_the_assistant_says_is_found_to_the_character(template: str) -> None:
    text, said = rendered(template)
    assert text == "".join(f"[{message['role']}]{message['content']}</s>" for message in TALK)
    assert said == ["Depth.</s>", "A letter 🐳.</s>"]
    assert rendered(template, assistant_only=False) == (text, None)


def test_the_published_format_of_deepseek() -> None:
    text, said = rendered(chat.DEEPSEEK)
    assert text == (
        f"<s>Be brief.{chat.USER}What is 深度?{chat.ASSISTANT}Depth.</s>"
        f"{chat.USER}Thanks, and <|x|> é?{chat.ASSISTANT}A letter 🐳.</s>"
    )
    assert said == ["Depth.</s>", "A letter 🐳.</s>"]


@pytest.mark.parametrize("template", [REWRITING, PROMPTING])
def test_a_template_that_does_not_tell_is_refused_with_the_way_out(template: str) -> None:
    with pytest.raises(DataError, match=r"{% generation %} .* set data.chat.loss to All, or template to DeepSeek"):
        rendered(template)
    assert rendered(template, assistant_only=False)


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (PLAIN, None, "no list of messages in field 'messages'; name the right one in data.chat.messagesField"),
        (PLAIN, [], "no list of messages"),
        (PLAIN, "hello", "no list of messages"),
        (PLAIN, [{"role": "user"}], "message 1 has no role and content"),
        (PLAIN, [{"role": "user", "content": [{"text": "x"}]}], "message 1 has no role and content"),
        (PLAIN, ["hello"], "message 1 has no role and content"),
        (PLAIN, [{"role": "user", "content": "x"}], "no message has the role assistant"),
        (PLAIN, TALK * 300, "1500 messages, of which 1024 are allowed"),
        (PLAIN, [{"role": "assistant", "content": "x" * (chat.CHARACTERS_MAX + 1)}], "more than 16777216 characters"),
        (chat.DEEPSEEK, [*TALK, {"role": "tool", "content": "x"}], "role tool is none of system, user and assistant"),
        ("{{ 1 // 0 }}", TALK, "the chat template refuses it: integer division"),
        ("{{ messages.append(1) }}", TALK, "the chat template refuses it: access to attribute 'append'"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", TALK, "the chat template refuses it: access to attribute"),
        ("{% for i in range(10**9) %}{% endfor %}", TALK, "the chat template refuses it: Range too big"),
        ("{{ strftime_now('%d') }}", TALK, "the chat template refuses it: 'strftime_now' is undefined"),
    ],
)
def test_a_conversation_that_can_not_be_rendered_is_bad(template: str, messages: Any, says: str) -> None:
    with pytest.raises(BadConversation) as refused:
        rendered(template, messages)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": {"chat_template": "T", "bos_token": "<s>", "eos_token": {"content": "</s>"}}}, "T"),
        ({"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"}, "chat_template.jinja": "F"}, "F"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "D"}],
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                }
            },
            "D",
        ),
        ({}, "there is no chat template in"),
        ({"tokenizer_config.json": {"chat_template": 5}}, "there is no chat template in"),
        ({"tokenizer_config.json": "{"}, "can't be read"),
        ({"tokenizer_config.json": [1]}, "can't be read"),
    ],
)
def test_the_template_beside_the_weights(tmp_path: Path, files: dict[str, Any], expected: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    if len(expected) == 1:
        assert chat.of_weights(tmp_path) == (expected, "<s>", "</s>")
        return
    with pytest.raises(ConfigError, match=expected):
        chat.of_weights(tmp_path)


def predicted(made: TokenStore) -> list[str]:
    """The runs of tokens that are to be predicted, as text."""
    assert made.targets is not None
    reader = Tokenizer.from_file(str(made.folder / "tokenizer.json"))
    runs: list[list[int]] = [[]]
    for token, wanted in zip(made.tokens.tolist(), made.targets.tolist(), strict=True):
        if wanted:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [reader.decode(run, skip_special_tokens=False) for run in runs if run]


def test_only_the_tokens_of_the_assistant_are_to_be_predicted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text((json.dumps({"talk": TALK}) + "\n") * 3)
    told = {"messagesField": "talk", "template": "DeepSeek"}
    made = store.open_store(prepare(corpora.config(tmp_path, tmp_path / "s", chat=told), {}))

    assert predicted(made) == ["Depth.<|endoftext|>", "A letter 🐳.<|endoftext|>"] * 3
    assert store.check(made.folder) is None
    reader = Tokenizer.from_file(str(made.folder / "tokenizer.json"))
    first = made.tokens[: made.documents[1]].tolist()
    assert first[0] == reader.token_to_id(chat.BEGIN)
    assert first.count(reader.token_to_id("<|endoftext|>")) == 2, "the conversation's last token ends the document"

    everything = store.open_store(prepare(corpora.config(tmp_path, tmp_path / "s", chat=told | {"loss": "All"}), {}))
    assert everything.targets is None
    assert everything.tokens.tolist() == made.tokens.tolist()


@pytest.mark.parametrize("tokenizer", ["bpe", "deepseek"])
def test_the_template_of_a_tokenizer_that_has_none_is_refused(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TALK}))
    told = corpora.config(tmp_path, tmp_path / "s", chat={}).model_dump(by_alias=True)
    told["trainer"]["tokenizer"]["kind"] = tokenizer
    with pytest.raises(ConfigError, match=r"set trainer\.task to finetune .* or data\.chat\.template to DeepSeek"):
        prepare(RunConfig.model_validate(told), {})
