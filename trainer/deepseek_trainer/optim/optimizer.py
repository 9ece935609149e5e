"""The optimizer of a run over its sharded parameters: one object, so that a checkpoint has one state of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from deepseek_trainer.config import OptimizerSpec
from deepseek_trainer.distributed.shards import trained_parameters
from deepseek_trainer.optim.adamw import AdamW
from deepseek_trainer.optim.muon import Muon


def make(
    model: nn.Module, spec: OptimizerSpec, collective: Callable[[], AbstractContextManager[None]] = nullcontext
) -> AdamW:
    """An optimizer whose learning rate is set anew in each step; matrices decay, norms and biases don't.

    Args:
        collective: around what it has to ask of other ranks.
    """
    trained = trained_parameters(model).items()
    hidden = _hidden_matrices(model) if spec.kind == "Muon" else set()
    groups = [
        {"params": [(name, p) for name, p in trained if p in hidden], "weight_decay": spec.weight_decay, "muon": True},
        {
            "params": [(name, p) for name, p in trained if p not in hidden and p.ndim >= 2],
            "weight_decay": spec.weight_decay,
        },
        {"params": [(name, p) for name, p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    told: dict[str, Any] = {"lr": spec.learning_rate, "betas": (spec.beta1, spec.beta2)}
    used = [group for group in groups if group["params"]]
    if spec.kind == "AdamW":
        return AdamW(used, **told)
    muon = spec.muon
    return Muon(used, **told, momentum=muon.momentum, iterations=muon.newton_schulz_steps, collective=collective)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    """All of two dimensions, and those of experts, but for embeddings and the head: their rows are single tokens'."""
    tokens: list[Any] = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    tokens.append(getattr(model, "get_output_embeddings", lambda: None)())
    by_token = {module.weight for module in tokens if module is not None}
    return {parameter for parameter in model.parameters() if parameter.ndim >= 2} - by_token
