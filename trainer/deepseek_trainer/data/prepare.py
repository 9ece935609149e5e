"""From `spec.data` to an open token store, once a folder: found in the cache, or made there.

The name of a store is the fingerprint of what it is made from (text, tokenizer config, format), so a changed file
never meets an old store. A damaged store is set aside, with the reason in the log, and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from deepseek_trainer.config import RunConfig, TokenizerSpec
from deepseek_trainer.data import documents as documents_
from deepseek_trainer.data import store, tokenizer
from deepseek_trainer.data.documents import Documents
from deepseek_trainer.errors import DataError, UnavailableError

log = logging.getLogger(__name__)

FORMAT = 2
"""Raised when the same text would give another store."""


def prepare(config: RunConfig, environ: Mapping[str, str]) -> Path:
    """The folder of the run's token store, whole and verified.

    Raises:
        DataError: the text can't be had or read.
        ConfigError: the tokenizer can't be had.
        UnavailableError: the cache folder can't be written.
    """
    documents = documents_.find(config.data, environ)
    spec, initial = config.trainer.tokenizer, config.trainer.initial_weights
    weights = Path(initial.path) if initial else None
    folder = Path(config.data_cache) / _key(documents, spec, tokenizer.content(spec, weights))
    try:
        if folder.exists():
            problem = store.check(folder)
            if problem is None:
                return folder
            _set_aside(folder, problem)
        log.info("preparing data=%s tokenizer=%s store=%s", documents.name, spec.kind, folder)
        store.write_store(folder, documents, tokenizer.make(spec, documents, weights))
    except DataError as error:
        raise DataError(f"{documents.name}: {error}" if documents.name not in str(error) else str(error)) from error
    except OSError as error:
        raise UnavailableError(f"dataCache {config.data_cache}: {error.strerror}; is the volume mounted?") from error
    return folder


def _key(documents: Documents, spec: TokenizerSpec, vocabulary: bytes) -> str:
    made_from: list[object] = [FORMAT, documents.fingerprint(), spec.model_dump(mode="json")]
    if vocabulary:
        made_from.append(hashlib.sha256(vocabulary).hexdigest())
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _set_aside(folder: Path, problem: str) -> None:
    aside = folder.with_name(f"{folder.name}.bad-{os.getpid()}")
    log.warning("token store %s is damaged: %s; set aside as %s and made again", folder, problem, aside.name)
    folder.rename(aside)
