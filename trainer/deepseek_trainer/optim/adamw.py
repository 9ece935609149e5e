"""AdamW over sharded parameters; matrices decay, norms and biases don't."""

from __future__ import annotations

import torch

from deepseek_trainer.config import OptimizerSpec


def make(model: torch.nn.Module, spec: OptimizerSpec) -> torch.optim.AdamW:
    """An optimizer with two groups; the learning rate is set anew in each step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
