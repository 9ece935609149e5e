"""How attention is computed. The choices give the same numbers to rounding, document masks included; they differ in speed.

SDPA is torch's own, which takes the fastest kernel that the shapes and the mask allow, on every device. The others need
something that is not everywhere, and are refused where it lacks rather than replaced in silence.
"""

from __future__ import annotations

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from deepseek_trainer.config import ConfigError, TrainerSpec

IMPLEMENTATIONS = {"SDPA": "sdpa", "Flash": "flash_attention_2", "Flex": "flex_attention", "Eager": "eager"}
"""Transformers' names of the values of `trainer.model.attention`."""
_FIELD = "trainer.model.attention"


def require(spec: TrainerSpec, device: torch.device) -> None:
    """Raises ConfigError where the chosen one can't be computed."""
    chosen = spec.model.attention
    if chosen in ("Flash", "Flex") and device.type != "cuda":
        raise ConfigError(f"{_FIELD}: {chosen} needs a GPU, and this job has none (backend gloo); take SDPA")
    if chosen == "Flash" and spec.training.precision == "fp32":
        raise ConfigError(f"{_FIELD}: Flash computes in half precision only; set trainer.training.precision to bf16")
    if chosen == "Flash" and not is_flash_attn_2_available():
        raise ConfigError(f"{_FIELD}: Flash needs the package flash-attn in the image; install it, or take SDPA")
