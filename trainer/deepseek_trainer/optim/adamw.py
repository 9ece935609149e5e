"""torch's AdamW over sharded parameters: each rank computes on its own parts, as every entry changes by itself.

Its state is there from the beginning, so that a checkpoint can be read into it, and DTensor's work on layouts and
shapes, which is for nothing here, is spared: a fifth of what a restarted process does before its first step.
"""

from __future__ import annotations

from typing import Any

import torch

from deepseek_trainer.distributed.shards import local, zeros_like


class AdamW(torch.optim.AdamW):
    """As torch.optim.AdamW, of which it is one, fused; its parameters are given with their names, and have memory already."""

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any) -> None:
        super().__init__(groups, fused=True, **adamw)
        self.gradient_factor = 1.0
        """By which the next step multiplies gradients, as it reads them."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self._first_state(group, parameter)

    @property
    def grad_scale(self) -> torch.Tensor | None:
        """Torch's name for what fused steps divide gradients by."""
        return torch.tensor(1 / self.gradient_factor) if self.gradient_factor != 1.0 else None

    def _first_state(self, group: dict[str, Any], parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        del group
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step, "exp_avg": zeros_like(parameter), "exp_avg_sq": zeros_like(parameter)}

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        """Fills torch's lists of what is to be computed on: parameters, gradients and moments, and steps."""
        has_complex: bool = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = [local(tensor) for tensor in tensors]
        return has_complex
