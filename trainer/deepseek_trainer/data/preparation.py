"""What a preparation is of, and where: known before anything of the files is read."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import documents, hub, sources, tokenizer
from deepseek_trainer.data.documents import Reading
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.sources import Source

FORMAT = 3
"""Raised when the same text would give another store."""


@dataclass(frozen=True)
class Preparation:
    """What is to be prepared, and where.

    Attributes:
        shape: hash of all that is known of the store without reading the files.
        state: hash of that, and of where the files are and when they changed.
    """

    config: RunConfig
    source: Source
    reading: Reading
    piece_bytes: int
    shape: str
    state: str

    @property
    def cache(self) -> Path:
        return Path(self.config.data_cache)

    @property
    def work(self) -> Path:
        return self.cache / f".{self.shape[:16]}-{self.state[:16]}"

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """The pieces of work; a dataset is fetched for them."""
        data = self.config.data
        source = self.source
        if data.dataset is not None:
            self.work.mkdir(parents=True, exist_ok=True)
            hub.export(data.dataset, self.reading.columns, self.work / "dataset.parquet")
            source = Source(source.name, (replace(sources.file_at(self.work / "dataset.parquet"), name=source.name),))
        may_skip = data.max_bad_records if data.on_bad_record == "Quarantine" else None
        cut = enumerate(sources.pieces(source, self.piece_bytes))
        return tuple(Part(number, piece, self.reading, str(self.work), may_skip) for number, piece in cut)

    @property
    def note(self) -> Path:
        return self.cache / "known" / f"{self.state[:32]}.json"

    def folder(self, digests: Sequence[str]) -> Path:
        """Where the store of this content is."""
        return self.cache / f"{self.shape[:16]}-{_hash([self.shape, *digests])[:32]}"


def plan(config: RunConfig, environ: Mapping[str, str], piece_bytes: int, source: Source | None = None) -> Preparation:
    """What the run's data is made of.

    Args:
        source: None: what `spec.data` means; else this.

    Raises:
        DataError, UnavailableError: the files can't be had.
        ConfigError: the tokenizer or the chat template can't be had.
    """
    source = source or sources.find(config.data, environ, cache=Path(config.data_cache))
    spec = config.trainer.tokenizer
    reading = documents.reading(config.data, spec, weights_of(config))
    vocabulary = tokenizer.content(spec, weights_of(config))
    shape = _hash(
        [
            FORMAT,
            piece_bytes if config.data.mode == "Deterministic" else ["shards", piece_bytes],
            asdict(reading),
            config.data.on_bad_record,
            [spec.model_dump(mode="json"), hashlib.sha256(vocabulary).hexdigest()],
            config.data.dataset.model_dump() if config.data.dataset else None,
            [(file.name, file.bytes) for file in source.files],
        ]
    )
    state = _hash([shape, [(file.path, file.state) for file in source.files]])
    return Preparation(config, source, reading, piece_bytes, shape, state)


def weights_of(config: RunConfig) -> Path | None:
    """The folder of the model that is finetuned, if one is."""
    initial = config.trainer.initial_weights
    return Path(initial.path) if initial else None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
