"""A dataset of the Hugging Face library, from the hub or from a volume, written as one Parquet file of what is needed.

Which one it is, is settled at the first preparation: from then on a job keeps to the store that was made of it, though
the hub's newest revision may be another. No code of a dataset is ever run: the library has given that up, and what
needs it is refused. HF_ENDPOINT, HF_TOKEN and HF_HOME come from the workers' environment.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_trainer.config import ConfigError, DatasetSpec
from deepseek_trainer.data import processes
from deepseek_trainer.errors import DataError, TrainerError, UnavailableError

_ROWS_AT_ONCE = 10_000


def export(spec: DatasetSpec, columns: Sequence[str], target: Path) -> None:
    """Writes these columns of the dataset to a Parquet file, if it isn't there; whole or not at all.

    The library works in a process of its own, because it reads its environment when it is imported, and keeps what it
    downloads beside the target, until that is there, where HF_HOME names no other place.

    Raises:
        ConfigError: the datasets library is missing.
        DataError: there is no such dataset, configuration, split or column.
        UnavailableError: the hub is out of reach.
        OSError: the volume is full or read-only.
    """
    if not target.exists():
        own = target.parent / "huggingface"
        home = os.environ.get("HF_HOME") or str(own)
        processes.run_apart(write, spec, tuple(columns), target, environ={"HF_HOME": home})
        shutil.rmtree(own, ignore_errors=True)


def write(spec: DatasetSpec, columns: Sequence[str], target: Path) -> None:
    """The same, in this process."""
    from pyarrow import parquet

    dataset = _load(spec)
    if missing := [column for column in columns if column not in dataset.column_names]:
        raise DataError(
            f"data.dataset {spec.name}: no column {missing[0]!r}; it has {', '.join(map(repr, dataset.column_names[:20]))}; "
            "name the right one in data.textField, data.textFields or data.chat.messagesField"
        )
    tables = dataset.select_columns(list(columns)).with_format("arrow")
    scratch = target.with_name(f".{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with parquet.ParquetWriter(scratch, tables.features.arrow_schema) as writer:
            for table in tables.iter(batch_size=_ROWS_AT_ONCE):
                writer.write_table(table)
        scratch.rename(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _load(spec: DatasetSpec) -> Any:
    """The split, memory-mapped."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "data.dataset needs the datasets package in the image; install deepseek-trainer[huggingface]"
        ) from error
    datasets.disable_progress_bars()
    try:
        local = Path(spec.name)
        if any((local / name).is_file() for name in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(spec.name)
            return found[spec.split] if isinstance(found, datasets.DatasetDict) else found
        return datasets.load_dataset(spec.name, spec.config, split=spec.split, revision=spec.revision)
    except OSError as error:
        if error.errno is not None:  # of a volume; what the network says has none
            raise
        raise _refused(spec, error) from error
    except Exception as error:  # the library raises whatever its readers do
        raise _refused(spec, error) from error


def _refused(spec: DatasetSpec, error: Exception) -> TrainerError:
    text = " ".join(str(error).split())[:500] or type(error).__name__
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"ConnectionError", "OfflineModeIsEnabled", "TimeoutError", "TransportError", "LocalEntryNotFoundError"}:
        return UnavailableError(
            f"data.dataset {spec.name}: the hub is out of reach: {text}; see that the workers may reach it (HF_ENDPOINT names "
            "another), or put the dataset on a volume and give its folder as data.dataset.name"
        )
    if isinstance(error, KeyError):
        text = f"no split {spec.split!r}"
    return DataError(
        f"data.dataset {spec.name}: {text}; correct name, config, split or revision; a private one needs HF_TOKEN in "
        "spec.workers.env"
    )
