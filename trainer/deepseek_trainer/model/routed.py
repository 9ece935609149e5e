"""How routed experts are computed: as transformers' grouped products are, with each row's way there and back in kernels/routes.

What a module's experts have beyond matrices and a gate (biases, a norm of their own) stays with transformers.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from transformers.integrations.moe import _grouped_linear

from deepseek_trainer.kernels import routes
from deepseek_trainer.model.layers import decoder_layers, routed


def settle(model: Any) -> None:
    """Has the model's experts compute so, in place; names and types of parameters stay. Before they are spread over ranks."""
    for module in map(routed, decoder_layers(model)):
        if module is not None and _suits(module):
            vars(module)["forward"] = MethodType(_forward, module)


def _suits(module: Any) -> bool:
    return module.has_gate and not module.has_bias and not module.has_post_expert_norm


def _forward(module: Any, rows: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The experts' outputs for rows of shape (n, width), weighted.

    Args:
        chosen: int64, shape (n, k): the experts of each row.
        weights: the same shape: how much each counts.
    """
    order, counts = routes.by_expert(chosen, module.num_experts)
    ends = counts.cumsum(0, dtype=torch.int32)
    out = routes.taken(rows, order, chosen.shape[-1])
    out = module._apply_gate(_grouped_linear(out, module.gate_up_proj, ends, is_transposed=module.is_transposed))
    out = _grouped_linear(out, module.down_proj, ends, is_transposed=module.is_transposed)
    return routes.combined(out, order, weights).to(rows.dtype)
