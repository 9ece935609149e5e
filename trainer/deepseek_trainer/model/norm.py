"""How RMSNorm is computed: as transformers writes it, in eight kernels, or in one of our own (kernels/rms_norm.py). On a CPU
in torch's operations too, but with fewer passes over the rows (kernels/closed_form.py).

A module is known by its forward function: it must be the very instructions of Llama's, as it is in DeepSeek-V3 and V2, Qwen2
and most others. One that computes anything else (Gemma's 1 + w) stays as it is. LayerNorm is one kernel of torch already.

Before the kernel takes a module's place it is compared with it, on the device and at the module's own size: what this GPU, its
driver or the image can't do is found here, on all ranks alike, and not in the first step.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any, Literal

import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from deepseek_trainer.config import ConfigError, TrainerSpec
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import first_line
from deepseek_trainer.kernels import closed_form
from deepseek_trainer.model.layers import same_code

log = logging.getLogger(__name__)

_FIELD = "trainer.model.norm"
_ROWS = 64
"""That the two are compared on."""
_NEAR = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""How far apart they may be, relative to the whole; rounding stays far below."""
Norm = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
How = Literal["Eager", "ClosedForm", "Fused"]
"""As transformers writes it; by kernels/closed_form; by the kernel."""


def settle(model: Any, spec: TrainerSpec, world: World, computed: torch.dtype) -> How:
    """Puts what is asked for and can be had in place of the model's norms; before the model is sharded.

    Names and types of parameters stay. A collective where there may be a kernel.

    Args:
        computed: the type that the forward pass is in.

    Returns:
        How they are computed.

    Raises:
        ConfigError: Fused is asked for and can't be had.
    """
    wanted, norms = spec.model.norm, [module for module in model.modules() if _known(type(module))]
    # What is compiled is fused with its neighbours by the compiler, which couldn't put them into our kernel.
    suits = spec.training.compile == "none" and bool(norms)
    if wanted == "Eager" or (wanted == "Auto" and not suits):
        return "Eager"
    if wanted == "Auto" and world.device.type == "cpu":
        if computed != torch.float32:
            return "Eager"
        _replace(norms, closed_form.rms_norm)
        return "ClosedForm"
    lack = next(filter(None, world.gather(_lack(norms, world.device, computed))), None)
    if lack is None:
        from deepseek_trainer.kernels.rms_norm import rms_norm

        _replace(norms, rms_norm)
        return "Fused"
    if wanted == "Fused":
        raise ConfigError(f"{_FIELD}: Fused {lack}; take Auto, which does without where it must")
    if world.leader:
        log.warning("norm=Eager, as the kernel in its place %s", lack)
    return "Eager"


def _known(kind: type[torch.nn.Module]) -> bool:
    return same_code(kind.forward, LlamaRMSNorm.forward)


def _replace(norms: list[Any], kernel: Norm) -> None:
    def forward(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        return kernel(hidden_states, module.weight, module.variance_epsilon)

    for module in norms:
        module.forward = MethodType(forward, module)


def _lack(norms: list[Any], device: torch.device, computed: torch.dtype) -> str | None:
    """Why the kernel can't take their place; None: it can."""
    if not norms:
        return "has nothing to replace: the model has no RMSNorm that is known"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "needs a GPU, and this job has none (backend gloo)"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton, and the image hasn't got it"
    # /tmp is the pod's own and outlives its processes: what was compiled is found again after a restart.
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir()) / "triton"))
    kinds = {norm.weight.numel(): norm for norm in norms}
    try:
        from deepseek_trainer.kernels import rms_norm

        if max(kinds) > rms_norm.MAX_SIZE:
            return f"takes rows of {rms_norm.MAX_SIZE} numbers at most, and the model's have {max(kinds)}"
        distances = [_distance(norm, rms_norm.rms_norm, device, computed) for norm in kinds.values()]
    except Exception as error:  # of Triton, a compiler, a driver or a file system
        return f"fails on this device: {type(error).__name__}: {first_line(error)}"
    far = [distance for distance in distances if not distance < _NEAR[computed]]
    return f"is {far[0]:.2g} off on this device" if far else None


def _distance(norm: Any, kernel: Norm, device: torch.device, computed: torch.dtype) -> float:
    """How far apart output and gradients are, at the worst, relative to the whole."""
    generator, size = torch.Generator().manual_seed(0), norm.weight.numel()
    x, weight, dy = (
        torch.randn(*shape, generator=generator).to(device, computed)
        for shape in ((_ROWS, size), (size,), (_ROWS, size))
    )
    found: list[tuple[torch.Tensor, ...]] = []
    for compute in (kernel, lambda x, weight, eps: type(norm).forward(_like(weight, eps), x)):
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = compute(*inputs, norm.variance_epsilon)
        found.append((y.detach(), *torch.autograd.grad(y, inputs, dy)))
    parts = [(own.float() - known.float()).norm() / known.float().norm() for own, known in zip(*found, strict=True)]
    return float(torch.stack(parts).max())  # a NaN, if there is one


def _like(weight: torch.Tensor, eps: float) -> Any:
    """What a norm's forward function needs of it."""
    return SimpleNamespace(weight=weight, variance_epsilon=eps)
