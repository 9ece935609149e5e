"""How each tensor of a model begins: what its architecture does to it, written down on the meta device and done later.

A model that is larger than a rank's memory can't be drawn whole and then cut up. Here each tensor is drawn by itself, from
a seed that is made of the run's seed and the tensor's name, and of a stack of experts only those that are asked for. So
what a tensor begins with depends on nothing but the two: not on the number of ranks, their layout, or the other tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepseek_trainer.config import ConfigError
from deepseek_trainer.model.layers import tensors

Part = tuple[slice, ...]
"""A box in a tensor: a slice with begin and end for each dimension."""
_ELEMENTWISE = frozenset({"normal_", "uniform_", "fill_", "zero_", "copy_", "mul_", "add_", "clamp_", "erfinv_"})
"""What treats each number alike, so that a part can be drawn like the whole."""


@dataclass(frozen=True)
class Recipe:
    """Operations in place, in their order, with their arguments."""

    steps: tuple[tuple[Any, tuple[Any, ...], Mapping[str, Any]], ...]

    def draw(self, shape: Sequence[int], part: Part, *, seed: int, name: str) -> torch.Tensor:
        """A part of the tensor, on the CPU in fp32; `shape` is the whole tensor's."""
        if len(shape) < 3:
            return self._whole(tuple(shape), _seed(seed, name))[part]
        first, *others = part
        drawn = [self._whole(tuple(shape[1:]), _seed(seed, name, i))[tuple(others)] for i in _range(first)]
        return torch.stack(drawn) if drawn else torch.empty(0, *(len(_range(other)) for other in others))

    def _whole(self, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        tensor, generator = torch.empty(shape, dtype=torch.float32), torch.Generator().manual_seed(seed)
        for operation, arguments, named in self.steps:
            random = any(argument.name == "generator" for argument in operation._schema.arguments)
            operation(tensor, *arguments, **({**named, "generator": generator} if random else named))
        return tensor


def of(model: Any, wanted: Collection[str] | None = None) -> dict[str, Recipe]:
    """The recipes of a model of transformers on the meta device, by names of tensors.

    Args:
        wanted: names of buffers, as only the modules that have them are asked how they begin, and all else in the model may
            be cut up; None: all tensors.

    Raises:
        ConfigError: the architecture begins with what can't be drawn part by part.
    """
    named = tensors(model)
    recorder = _Recorder(model, named if wanted is None else {name: named[name] for name in wanted})
    with torch.no_grad(), recorder:
        for module in _children_first(model):
            if wanted is None or not recorder.known.isdisjoint(map(_storage, module.buffers(recurse=False))):
                model._init_weights(module)
    return {name: Recipe(tuple(steps)) for name, steps in recorder.steps.items() if steps}


class _Recorder(TorchDispatchMode):
    """Writes down what is done in place to these tensors of a model, and doesn't do it."""

    def __init__(self, model: torch.nn.Module, named: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._model = type(model).__name__
        self._names = {_storage(tensor): name for name, tensor in named.items()}
        self._sizes = {name: tensor.numel() for name, tensor in named.items()}
        self.steps: dict[str, list[Any]] = {name: [] for name in named}
        self.known = self._names.keys()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation, target = func._schema.name.partition("::")[2], args[0] if args else None
        if not (operation.endswith("_") and isinstance(target, torch.Tensor) and target.is_meta):
            return func(*args, **(kwargs or {}))
        name = self._names.get(_storage(target))
        if name is None:  # on the meta device a number that is changed is none
            return target if operation in _ELEMENTWISE else func(*args, **(kwargs or {}))
        whole = target.numel() == self._sizes[name]
        if operation == "zero_" and not whole:  # an embedding's row for padding, which nothing looks up here
            return target
        if operation not in _ELEMENTWISE or not whole:
            raise ConfigError(
                f"trainer.model: {self._model} begins {name} with {operation}, which can't be drawn part by part; "
                "start from its weights (task finetune)"
            )
        if operation in ("normal_", "uniform_", "fill_", "zero_", "copy_"):
            self.steps[name].clear()  # whatever it was before
        self.steps[name].append((func, tuple(args[1:]), dict(kwargs or {})))
        return target


def _children_first(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for child in module.children():
        yield from _children_first(child)
    yield module


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _range(part: slice) -> range:
    return range(part.start, part.stop)


def _seed(seed: int, name: str, index: int | None = None) -> int:
    text = f"{seed}:{name}" if index is None else f"{seed}:{name}:{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
