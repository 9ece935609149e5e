"""torch.compile of decoder layers, in place: `trainer.training.compile`.

A layer's forward function is compiled and not the module, so that no parameter's name changes and the hooks that FSDP2 puts around
the layer later stay outside. A layer that recomputes itself (distributed/recompute.py) is compiled with that. Of a layer with
experts its attention, its norms and its shared experts are compiled: the routed ones are grouped products already, in
sizes that change with each batch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from deepseek_trainer.config import ConfigError, TrainingSpec
from deepseek_trainer.model.layers import router

_FIELD = "trainer.training.compile"
_PARTS = ("self_attn", "input_layernorm", "post_attention_layernorm", "mlp.shared_experts")
BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps what it has compiled."""


def require(training: TrainingSpec) -> None:
    """Raises ConfigError where nothing can be compiled."""
    if training.compile == "none":
        return
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"{_FIELD}: layers needs a C++ compiler, and the image has no {compiler}; install one, set CXX, or take none"
        )
    # /tmp is the pod's own and outlives its processes: what was compiled is found again after a restart.
    os.environ.setdefault(CACHE, str(Path(tempfile.gettempdir()) / "torchinductor"))


def apply(layer: Any, training: TrainingSpec) -> None:
    """Has a layer be compiled when it is first called, in place; before it is sharded.

    Raises:
        ConfigError: it has experts, and is to recompute what is cheap.
    """
    if training.compile == "none":
        return
    if router(layer) is None:
        layer.forward = torch.compile(layer.forward, backend=BACKEND)
        return
    if training.activation_checkpointing == "selective":
        raise ConfigError(
            f"{_FIELD}: the layers of a model with experts are compiled in parts, which selective can't look into; set "
            "trainer.training.activationCheckpointing to full or none, or compile to none"
        )
    for name in _PARTS:
        part: Any = layer.get_submodule(name)
        part.forward = torch.compile(part.forward, backend=BACKEND)
