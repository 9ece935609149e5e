"""From text to tokens: what is read, what is refused, and that a store is whole or absent."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek_trainer.config import RunConfig, TokenizerSpec
from deepseek_trainer.data import corpora, store, tokenizer
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.errors import DataError
from tokenizers import Tokenizer

README = Path(__file__).parents[2] / "docs" / "architecture.md"
"""Real text that is always at hand; the corpora themselves are the business of tests/training."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(README.read_text())
    lines = [line for line in README.read_text().splitlines() if line]
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return folder


def _config(folder: Path, cache: Path, **data: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "job": "test",
            "trainer": {"training": {"steps": 1}, "tokenizer": {"vocabSize": 512}},
            "data": {"path": str(folder), **data},
            "dataCache": str(cache),
        }
    )


def test_a_store_is_made_once_and_found_again(folder: Path, tmp_path: Path) -> None:
    first = prepare(_config(folder, tmp_path / "stores"), {})
    written = (first / "manifest.json").stat().st_mtime_ns

    assert prepare(_config(folder, tmp_path / "stores"), {}) == first
    assert (first / "manifest.json").stat().st_mtime_ns == written
    assert sorted(child.name for child in (tmp_path / "stores").iterdir()) == [first.name, "known"]


def test_a_store_reads_back_as_the_text(folder: Path, tmp_path: Path) -> None:
    opened = store.open_store(prepare(_config(folder, tmp_path / "stores"), {}))
    reader = Tokenizer.from_file(str(opened.folder / "tokenizer.json"))
    starts = opened.documents

    assert opened.info.documents == len(starts) - 1
    assert starts[-1] == opened.info.tokens == len(opened.tokens)
    assert opened.targets is None
    assert reader.decode(opened.tokens[starts[0] : starts[1] - 1].tolist()) == README.read_text()
    assert opened.tokens[starts[1] - 1] == tokenizer.end_of_text(reader)
    assert 0 < opened.info.unigram_entropy < np.log(opened.info.vocab_size)


def test_two_folders_give_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    stores = [store.open_store(prepare(_config(folder, tmp_path / name), {})) for name in ("one", "two")]
    assert stores[0].info.fingerprint == stores[1].info.fingerprint


@pytest.mark.parametrize("change", ["text", "tokenizer"])
def test_other_input_is_another_store(folder: Path, tmp_path: Path, change: str) -> None:
    config = _config(folder, tmp_path / "stores")
    first = prepare(config, {})
    if change == "text":
        (folder / "a.txt").write_text("Something else.")
    else:
        trainer = config.trainer.model_copy(update={"tokenizer": TokenizerSpec(vocab_size=600)})
        config = config.model_copy(update={"trainer": trainer})
    assert prepare(config, {}) != first


def test_a_damaged_store_is_set_aside_and_made_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = prepare(_config(folder, tmp_path / "stores"), {})
    with (made / "tokens.bin").open("r+b") as file:
        file.write(b"\xff\xff")

    assert prepare(_config(folder, tmp_path / "stores"), {}) == made
    assert store.check(made) is None
    assert "tokens.bin differs from its sha256" in caplog.text


def test_a_store_that_was_cut_short_is_not_opened(folder: Path, tmp_path: Path) -> None:
    path = prepare(_config(folder, tmp_path / "stores"), {})
    with (path / "tokens.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=r"tokens\.bin has 100 bytes instead of"):
        store.open_store(path)


def test_the_published_vocabulary_round_trips() -> None:
    published = tokenizer.make(TokenizerSpec(kind="deepseek"), [])
    assert published.get_vocab_size() > 128_000
    assert published.decode(published.encode("Deep learning, 深度学习.", add_special_tokens=False).ids) == (
        "Deep learning, 深度学习."
    )
    assert tokenizer.end_of_text(published) == 1


def test_a_damaged_copy_of_a_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / corpora.get("chitchat").file_name).write_text('{"text": "not it"}\n')
    with pytest.raises(DataError, match="delete the file"):
        corpora.find("chitchat", {"DEEPSEEKJOB_CORPORA": str(tmp_path)})


def test_a_corpus_that_can_not_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    unreachable = replace(corpora.get("gcide"), version="0.0.0-none", download=_fail)
    with pytest.raises(DataError, match=r"copy gcide-0\.0\.0-none\.jsonl into a folder named by DEEPSEEKJOB_CORPORA"):
        corpora.fetch(unreachable, tmp_path)
    assert not list(tmp_path.iterdir())


def _fail(corpus: corpora.Corpus, scratch: Path) -> Path:
    corpora._run(corpus, ["ls", os.fspath(scratch / "nothing")], scratch)
    raise AssertionError("unreachable")


def test_a_vocabulary_with_gaps_is_as_large_as_its_largest_id(tmp_path: Path) -> None:
    """A model is made, or refused, by this size: an id beyond it would be an index out of its embedding."""
    trained = tokenizer.make(TokenizerSpec(vocab_size=512), ["Some text."])
    described = json.loads(trained.to_str())
    described["model"]["vocab"]["far"] = 70_000
    gapped = Tokenizer.from_str(json.dumps(described))
    assert gapped.get_vocab_size() < 70_000
    assert tokenizer.size_of(gapped) == 70_001
    assert tokenizer.token_type(tokenizer.size_of(gapped)) == np.uint32
