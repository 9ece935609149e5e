"""One corpus and one prepared token store for all training tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import corpora
from deepseek_trainer.data.prepare import prepare
from support import zygote
from support.agents import World
from support.runs import run_config


@pytest.fixture(scope="session")
def corpus_file() -> Path:
    """chitchat, fetched into the user's cache once."""
    return corpora.find("chitchat", os.environ)


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared stores: kept in the user's cache, so that the tokenizer is trained once a machine."""
    return corpora.cache(os.environ).with_name("stores")


@pytest.fixture
def config(tmp_path: Path, store_folder: Path, data_cache: Path) -> Callable[..., dict[str, Any]]:
    """Makes a run config of a small model on chitchat; keyword arguments change the training section."""

    def make(**training: Any) -> dict[str, Any]:
        return run_config(checkpoints=tmp_path / "checkpoints", data_cache=data_cache, **training)

    return make


@pytest.fixture(scope="session")
def store_folder(corpus_file: Path, data_cache: Path) -> Path:
    """The prepared store of that config, made before any deadline runs."""
    config = run_config(checkpoints=Path("/nowhere"), data_cache=data_cache)
    return prepare(RunConfig.model_validate(config), os.environ)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The pods of one job, as agents; what is left of them at the end is killed."""
    made = World(tmp_path, zygote=zygote.shared())
    yield made
    made.close()
