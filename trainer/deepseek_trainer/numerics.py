"""What is asked of the machine's arithmetic: a precision that it has, and results that don't change from run to run."""

from __future__ import annotations

import os

import torch
from torch import nn

from deepseek_trainer import hostmemory
from deepseek_trainer.config import ConfigError, TrainingSpec

FP8_CAPABILITY = (8, 9)
"""CUDA compute capability from which tensor cores multiply in fp8: Ada, Hopper and newer; an A100 is 8.0."""
_FP8_MULTIPLE = 16
"""Of which both sides of a matrix have to be multiples."""
_FIELD = "trainer.training.precision"


def set_up(training: TrainingSpec, device: torch.device) -> None:
    """Refuses what the device can't compute, and switches on what is asked for; before a model is made.

    Raises:
        ConfigError: the precision is none of this device's.
    """
    if device.type == "cpu":
        hostmemory.keep()
    if training.precision == "fp8":
        require_fp8(torch.cuda.get_device_capability(device) if device.type == "cuda" else None)
    if training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(training.deterministic)


def require_fp8(capability: tuple[int, int] | None) -> None:
    """Raises ConfigError if a device has no tensor cores for fp8.

    Args:
        capability: CUDA's; None: it is no GPU.
    """
    if capability is None:
        raise ConfigError(f"{_FIELD}: fp8 needs tensor cores, and a CPU has none; take bf16")
    if capability < FP8_CAPABILITY:
        own, needed = (".".join(map(str, numbers)) for numbers in (capability, FP8_CAPABILITY))
        raise ConfigError(
            f"{_FIELD}: fp8 needs a GPU of compute capability {needed} (Ada, Hopper or newer), this one has {own}; take bf16"
        )


def convert(model: nn.Module, training: TrainingSpec, *, emulate: bool = False) -> None:
    """Has linear layers multiply in fp8 if that is asked for; in place, before the model is sharded.

    Forward in E4M3 and gradients in E5M2, with a scale for each tensor, made anew in each step (torchao). Names and types of
    parameters stay, so checkpoints do. Experts, the router and the head stay in bf16.

    Args:
        emulate: computes what the hardware would, without it.

    Raises:
        ConfigError: torchao isn't installed.
    """
    if training.precision != "fp8":
        return
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ConfigError(f"{_FIELD}: fp8 needs the torchao package; add it to the image, or take bf16") from error
    convert_to_float8_training(model, module_filter_fn=_is_for_fp8, config=Float8LinearConfig(emulate=emulate))


def _is_for_fp8(module: nn.Module, name: str) -> bool:
    return (
        isinstance(module, nn.Linear)
        and not name.endswith("lm_head")
        and module.in_features % _FP8_MULTIPLE == module.out_features % _FP8_MULTIPLE == 0
    )
