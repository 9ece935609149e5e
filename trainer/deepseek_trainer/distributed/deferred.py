"""The backward pass in two halves: gradients of inputs, for which another stage waits, and later those of weights.

Between the halves a rank does what others wait for, which is how zero-bubble schedules fill a pipeline's waits (Qi et al. 2023,
arXiv:2401.10241). As in DeepSeek's DualPipe a matrix product leaves its weight's gradient out of the first half, and keeps what
it is made of: its input and its output's gradient. All else (norms, biases, embeddings, the router) is of the first half, and so
is the output layer, as the gradient of logits is too large to be kept.

torch's own `stage_backward_input` and `stage_backward_weight` take the whole graph in two instead: it is kept meanwhile, and
with activation checkpointing a layer would be computed again for each of its weights.

Rule: the numbers are those of a backward pass in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from deepseek_trainer.model.layers import decoder_layers, routed

# mypy: disable-error-code="no-untyped-call,override"
# torch's Function is untyped.

Later = list[Callable[[], None]]
"""What accumulates the gradients of weights that were left out."""


class Deferral:
    """Whether gradients of weights are left out of a backward pass, for all products of a model."""

    def __init__(self) -> None:
        self._later: Later | None = None

    def put_into(self, model: Any) -> None:
        """Has the model's matrix products heed this, in place; after all axes have put theirs into it."""
        experts, head = [routed(layer) for layer in decoder_layers(model)], model.get_output_embeddings()
        for module in model.modules():
            if module is not head and (module in experts or isinstance(module, (nn.Linear, Conv1D))):
                module.forward = _Within(module.forward, _Products(self))

    @contextmanager
    def left_out(self) -> Iterator[Later]:
        """In here backward passes leave them out; what adds them."""
        later: Later = []
        self._later = later
        try:
            yield later
        finally:
            self._later = None

    def gradient(self, weight: torch.Tensor, computed: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        """What a backward pass answers with for a weight: its gradient; None: it comes later."""
        if self._later is None:
            return computed()
        self._later.append(lambda: torch.autograd.backward([weight], [computed()]))
        return None


class _Within:
    """A module's forward function, with other products in it."""

    def __init__(self, forward: Callable[..., Any], products: TorchFunctionMode) -> None:
        self._forward, self._products = forward, products

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with self._products:
            return self._forward(*arguments, **named)


class _Products(TorchFunctionMode):
    """Products with trained weights heed a deferral."""

    def __init__(self, deferral: Deferral) -> None:
        super().__init__()
        self._deferral = deferral

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        product = _PRODUCTS.get(function) if torch.is_grad_enabled() else None
        return (product or function)(*([self._deferral] if product else []), *args, **(kwargs or {}))


def _linear(deferral: Deferral, rows: Any, weight: Any, bias: Any = None) -> Any:
    return _Linear.apply(deferral, rows, weight, bias)


def _addmm(deferral: Deferral, bias: Any, rows: Any, weight: Any) -> Any:
    return _Linear.apply(deferral, rows, weight.mT, bias)


def _grouped(deferral: Deferral, rows: Any, weights: Any, *, offs: Any, **named: Any) -> Any:
    if any(value is not None for value in named.values()):
        return torch._grouped_mm(rows, weights, offs=offs, **named)
    return _Grouped.apply(deferral, rows, weights, offs)


_PRODUCTS: Mapping[Any, Callable[..., Any]] = {linear: _linear, torch.addmm: _addmm, torch._grouped_mm: _grouped}


class _Linear(Function):
    """rows @ weight.T + bias."""

    @staticmethod
    def forward(context: Any, deferral: Deferral, rows: Any, weight: Any, bias: Any) -> Any:
        context.save_for_backward(rows)
        context.deferral = deferral
        context.weight = weight  # FSDP frees its memory, and fills it again for the backward pass
        return linear(rows, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Any, ...]:
        (rows,), weight, flat = context.saved_tensors, context.weight, gradient.flatten(0, -2)
        _, to_rows, to_weight, to_bias = context.needs_input_grad
        return (
            None,
            gradient @ weight if to_rows else None,
            context.deferral.gradient(weight, lambda: flat.mT @ rows.flatten(0, -2)) if to_weight else None,
            flat.sum(0) if to_bias else None,
        )


class _Grouped(Function):
    """rows @ weights, each run of rows with the next of them; shape (experts, input, output)."""

    @staticmethod
    def forward(context: Any, deferral: Deferral, rows: Any, weights: Any, offs: Any) -> Any:
        context.save_for_backward(rows, offs)
        context.deferral, context.weights = deferral, weights
        return torch._grouped_mm(rows, weights, offs=offs)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Any, ...]:
        (rows, offs), weights = context.saved_tensors, context.weights
        _, to_rows, to_weights, _ = context.needs_input_grad
        return (
            None,
            torch._grouped_mm(gradient, weights.mT, offs=offs) if to_rows else None,
            context.deferral.gradient(weights, lambda: torch._grouped_mm(gradient.mT, rows, offs=offs).mT)
            if to_weights
            else None,
            None,
        )
