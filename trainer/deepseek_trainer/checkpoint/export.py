"""A checkpoint as a model in the format of Hugging Face: config.json, safetensors and the tokenizer. For any number of ranks.

Layer by layer: read from the shards of all ranks, brought to the names of the published format, written when a file is full.
So memory holds one file's worth of tensors and one layer, and not the model; no process group, no GPU, no data is needed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from transformers import PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import dcp, layout, load
from deepseek_trainer.checkpoint.load import Found
from deepseek_trainer.checkpoint.objects.fetch import fetch
from deepseek_trainer.checkpoint.objects.store import connect
from deepseek_trainer.checkpoint.verify import verify
from deepseek_trainer.config import ConfigError
from deepseek_trainer.data.tokenizer import FILE as TOKENIZER
from deepseek_trainer.errors import DataError, TrainerError
from deepseek_trainer.model import build
from deepseek_trainer.model.mtp import SHARED
from deepseek_trainer.model.pretrained import CONFIG, parsed
from deepseek_trainer.model.weights import INDEX, WEIGHTS

FILE_BYTES = 4 * 2**30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Types that weights are converted to, by name."""
MODEL, EMA = "model", "ema"
"""Where the weights and their moving average are in a checkpoint's state."""
_LAYER = re.compile(r"[^0-9]*?\.\d+\.")


def export(
    folder: Path,
    target: Path,
    *,
    step: int | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: Path | None = None,
    ema: bool = False,
    file_bytes: int = FILE_BYTES,
    told: Callable[[str], object] = lambda line: None,
) -> Found:
    """Writes the model of a checkpoint; the target appears whole, or not at all.

    Args:
        folder: the job's, on the checkpoint volume.
        target: a folder that isn't there yet.
        step: of the checkpoint; None: the newest whole one.
        dtype: of the floating-point weights; None: as they were trained.
        tokenizer: tokenizer.json; None: the one of the job's prepared data, where there is one.
        ema: the moving average of the weights, in place of the weights.
        told: is given a line about each part that is done.

    Raises:
        ConfigError: the target is there, or the job's architecture isn't known.
        DataError: there is no such checkpoint, or it isn't whole, or it has no average.
    """
    if target.exists():
        raise ConfigError(f"{target} is there already; give a folder that is to be made")
    told(f"verifying {'the newest checkpoint' if step is None else f'step {step}'} of {folder}")
    found = _found(folder, step)
    told(f"step {found.manifest.step} is whole")
    config = _config(folder)
    work = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    dtype_name = _write_weights(found, config, _Files(work, file_bytes, told), dtype, ema=ema)
    durable.write_json(work / CONFIG, config.to_dict() | {"dtype": dtype_name})
    if vocabulary := tokenizer or _tokenizer(folder):
        shutil.copy(vocabulary, work / TOKENIZER)
        durable.sync(work / TOKENIZER)
    durable.sync_folder(work)
    durable.rename(work, target)
    return found


@dataclass
class _Files:
    """Tensors that become files of about equal size."""

    folder: Path
    limit: int
    told: Callable[[str], object]
    names: list[dict[str, torch.Size]] = field(default_factory=list)
    total: int = 0
    _held: dict[str, torch.Tensor] = field(default_factory=dict)
    _bytes: int = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        if self._held and self._bytes + tensor.nbytes > self.limit:
            self.flush()
        self._held[name] = tensor.contiguous()
        self._bytes += tensor.nbytes
        self.total += tensor.nbytes

    def flush(self) -> None:
        path = self.folder / f"part-{len(self.names)}"
        save_file(self._held, path, metadata={"format": "pt"})
        durable.sync(path)
        self.names.append({name: tensor.shape for name, tensor in self._held.items()})
        self.told(f"file {len(self.names)}: {len(self._held)} tensors, {self._bytes} bytes")
        self._held, self._bytes = {}, 0

    def close(self) -> None:
        """Gives the files the names by which they are looked for."""
        self.flush()
        if len(self.names) == 1:
            (self.folder / "part-0").rename(self.folder / WEIGHTS)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self.names):
            file = f"model-{number + 1:05d}-of-{len(self.names):05d}.safetensors"
            (self.folder / f"part-{number}").rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        durable.write_json(self.folder / INDEX, {"metadata": {"total_size": self.total}, "weight_map": weight_map})


def _write_weights(
    found: Found, config: PreTrainedConfig, files: _Files, dtype: torch.dtype | None, *, ema: bool
) -> str:
    """Writes all tensors; the name of their type."""
    model = build.bare(config)
    known = FileSystemReader(found.path).read_metadata().state_dict_metadata
    sizes = {
        name.removeprefix(f"{MODEL}."): entry
        for name, entry in known.items()
        if name.startswith(f"{MODEL}.") and isinstance(entry, TensorStorageMetadata)
    }
    if missing := sorted(set(model.state_dict()) - set(sizes)):
        raise DataError(f"{found.path} lacks {len(missing)} tensors of the model, first {missing[0]}")
    averaged = {name.removeprefix(f"{EMA}.") for name in known if name.startswith(f"{EMA}.")} if ema else set()
    if ema and not averaged:
        raise DataError(f"{found.path} has no average of the weights; export without it, or train with optimizer.ema")
    types: set[str] = set()
    tied = set(model.all_tied_weights_keys or ())  # a published model has them once
    for names in _layers([name for name in sizes if name not in tied]):
        read = {name: torch.empty(sizes[name].size, dtype=sizes[name].properties.dtype) for name in names}
        repeated = _repeated(config, names[0])
        read |= {name: torch.empty(sizes[name].size, dtype=sizes[name].properties.dtype) for name in repeated.values()}
        dcp.read(
            {
                MODEL: {name: tensor for name, tensor in read.items() if name not in averaged},
                EMA: {name: tensor for name, tensor in read.items() if name in averaged},
            },
            found.path,
            dcp.in_folder(found.path),
        )
        shared = {name: read.pop(of) for name, of in repeated.items()}
        for name, tensor in (revert_weight_conversion(model, read) | shared).items():
            cast = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
            types.add(str(cast.dtype).removeprefix("torch."))
            files.add(name, cast)
    files.close()
    return "float32" if len(types) != 1 else types.pop()


def _layers(names: list[str]) -> Iterator[list[str]]:
    """The names layer by layer; what is in none is one more."""
    layers: dict[str, list[str]] = {}
    for name in names:
        found = _LAYER.match(name)
        layers.setdefault(found.group() if found else "", []).append(name)
    yield from layers.values()


def _repeated(config: PreTrainedConfig, name: str) -> dict[str, str]:
    """What a published layer that predicts further tokens repeats of the model, if the tensor is of such a layer."""
    found = _LAYER.match(name)
    first, depth = config.num_hidden_layers, getattr(config, "num_mtp_layers", 0)
    if not depth or found is None or int(found.group().split(".")[-2]) < first:
        return {}
    return {found.group() + own: of for own, of in SHARED.items()}


def _found(folder: Path, step: int | None) -> Found:
    if step is None:
        newest = load.newest_whole(folder)
        if newest is None:
            raise DataError(f"{folder} has no checkpoint; give the job's folder on the checkpoint volume")
        return newest
    checkpoint = layout.checkpoint_folder(folder, step)
    problem, manifest = verify(checkpoint)
    if manifest is None:
        raise DataError(f"{checkpoint} can't be exported: {problem}; take another step, or the newest one")
    return Found(checkpoint, manifest)


def _config(folder: Path) -> PreTrainedConfig:
    file = folder / layout.MODEL / CONFIG
    try:
        return parsed(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{file} can't be read: {error}; a start of this trainer writes it: let the job start once more, or put the "
            "model's config.json there"
        ) from error


def _tokenizer(folder: Path) -> Path | None:
    """The vocabulary of the data that was prepared last, where that is beside the checkpoints."""
    files = sorted(folder.glob(f"data/**/{TOKENIZER}"), key=lambda file: file.stat().st_mtime)
    return files[-1] if files else None


def sentence(found: Found, target: Path) -> str:
    """What came of it, for people."""
    return f"step {found.manifest.step} is in {target}"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m deepseek_trainer.checkpoint.export FOLDER TARGET`; the exit status is the trainer's."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_trainer.checkpoint.export", description=__doc__)
    parser.add_argument("folder", help="the job's folder on the checkpoint volume, or its URL in an object store")
    parser.add_argument(
        "--endpoint", default="", metavar="URL", help="of the object store's server, if not the provider's"
    )
    parser.add_argument("target", type=Path, help="the folder that is to be made")
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest whole one")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="of the weights; default: as trained")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="tokenizer.json; default: that of the job's data"
    )
    parser.add_argument("--ema", action="store_true", help="the moving average of the weights (trainer.optimizer.ema)")
    parser.add_argument(
        "--brief-to", type=Path, metavar="FILE", help="put the outcome there as JSON, a pod's last words"
    )
    told = parser.parse_args(arguments)
    try:
        with _brought(told.folder, told.endpoint, told.target, told.step) as folder:
            found = export(
                folder,
                told.target,
                step=told.step,
                dtype=DTYPES[told.dtype] if told.dtype else None,
                tokenizer=told.tokenizer,
                ema=told.ema,
                told=lambda line: print(line, flush=True),  # noqa: T201
            )
    except (TrainerError, ConfigError, OSError) as error:
        _brief(told.brief_to, "error", str(error))
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return int(error.exit_code) if isinstance(error, TrainerError) else 1
    _brief(told.brief_to, "done", sentence(found, told.target))
    print(sentence(found, told.target))  # noqa: T201
    return 0


def _brief(file: Path | None, key: str, text: str) -> None:
    if file is not None:
        file.write_text(json.dumps({key: text[:1000]}), encoding="utf-8")


@contextmanager
def _brought(folder: str, endpoint: str, target: Path, step: int | None) -> Iterator[Path]:
    """The job's folder; one in an object store is brought beside the target, of which the disk needs as much again."""
    if "://" not in folder:
        yield Path(folder)
        return
    if target.exists():
        raise ConfigError(f"{target} is there already; give a folder that is to be made")
    scratch = target.with_name(f".{target.name}.fetched")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        fetch(connect(folder, endpoint), scratch, step)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
