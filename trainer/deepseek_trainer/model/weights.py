"""The tensors of a trained model in safetensors files, read part by part under the names that the model has in memory.

Published files have each expert's matrices by themselves, the model in memory has them in one stack; transformers knows
how the one becomes the other (`conversion_mapping`). Of a stack only the experts that are asked for are read.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from deepseek_trainer.model.recipes import Part

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class Weights:
    """A folder's tensors, for a model on the meta device that isn't cut up yet."""

    def __init__(self, folder: Path, model: Any) -> None:
        """Raises what safetensors raises for files that can't be read."""
        self._folder, self._model = folder, model
        mapping = get_model_conversion_mapping(model)
        self._converters = {
            pattern: entry
            for entry in mapping
            if isinstance(entry, WeightConverter)
            for pattern in entry.source_patterns
        }
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        known = model.state_dict()
        self._sources: dict[str, dict[str | None, list[str]]] = defaultdict(lambda: defaultdict(list))
        for key in sorted(self._files, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, known)
            self._sources[name][pattern].append(key)
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        self.missing = sorted(set(known) - set(self._sources) - tied)
        """Names of the model that the files lack."""
        unknown = (keys for name in set(self._sources) - set(known) for keys in self._sources[name].values())
        self.extra = sorted(itertools.chain.from_iterable(unknown))
        """Names in the files that the model has no use for."""

    def read(self, name: str, shape: torch.Size, part: Part) -> torch.Tensor:
        """A part of a tensor of the model, in fp32.

        Raises:
            ValueError: the tensor in the files has another shape.
        """
        sources = self._sources[name]
        if list(sources) == [None]:
            return self._part(sources[None][0], tuple(shape), part)
        first, *others = part
        stacked = all(len(keys) == shape[0] for keys in sources.values())
        made = self._converted(name, {pattern: keys[first] if stacked else keys for pattern, keys in sources.items()})
        wanted = (first.stop - first.start if stacked else shape[0], *shape[1:])
        if tuple(made.shape) != wanted:
            raise ValueError(f"{name} has shape {tuple(made.shape)}, the model's config says {wanted}")
        return made[(slice(None) if stacked else first, *others)].to(torch.float32)

    def _converted(self, name: str, sources: dict[str | None, list[str]]) -> torch.Tensor:
        converter = deepcopy(self._converters[next(iter(sources)) or ""])
        for pattern, keys in sources.items():
            for key in keys:
                converter.add_tensor(name, key, pattern or "", partial(self._whole, key))
        made: Any = converter.convert(name, model=self._model, config=self._model.config)[name]
        whole: torch.Tensor = made[0] if isinstance(made, list) else made
        return whole

    @cached_property
    def _files(self) -> dict[str, Any]:
        """Name of a tensor in the files -> the file, open; reading is by pages of what is asked for."""
        if (self._folder / WEIGHTS).is_file():
            opened = safe_open(self._folder / WEIGHTS, framework="pt")
            return dict.fromkeys(opened.keys(), opened)
        index = json.loads((self._folder / INDEX).read_bytes())["weight_map"]
        files = {file: safe_open(self._folder / file, framework="pt") for file in set(index.values())}
        return {name: files[file] for name, file in index.items()}

    def _part(self, key: str, shape: tuple[int, ...], part: Part) -> torch.Tensor:
        found = self._files[key].get_slice(key)
        if tuple(found.get_shape()) != shape:
            raise ValueError(f"{key} has shape {tuple(found.get_shape())}, the model's config says {shape}")
        read: torch.Tensor = found[part] if shape else self._whole(key)
        return read.to(torch.float32)

    def _whole(self, key: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[key].get_tensor(key)
        return tensor
