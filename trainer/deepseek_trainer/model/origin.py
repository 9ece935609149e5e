"""Where a run's model comes from, by task: one function in ORIGINS for each value of `trainer.task` that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from deepseek_trainer.config import ModelSpec, TrainerSpec
from deepseek_trainer.model import attention, build, fill, pretrained

IDENTITY = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "n_inner",
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "routed_scaling_factor",
    "n_group",
    "topk_group",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "num_mtp_layers",
    "tie_word_embeddings",
)
"""What of a configuration a checkpoint must have in common with a run."""


@dataclass(frozen=True)
class Origin:
    """A model before the first step.

    Attributes:
        name: for the log.
        weights: the folder of a trained model; None: the weights are drawn from the seed.
    """

    name: str
    config: PreTrainedConfig
    seed: int
    weights: Path | None = None
    trusted: bool = False

    def identity(self) -> dict[str, Any]:
        """The numbers that a checkpoint of this model must have in common with it."""
        found = {name: getattr(self.config, name, None) for name in IDENTITY}
        return {name: value for name, value in found.items() if value is not None}

    def require(self) -> None:
        """Raises ConfigError if the weights are not there."""
        if self.weights is not None:
            pretrained.require_weights(self.weights)

    def bare(self) -> Any:
        """The model on the meta device, to be cut up; see `build.bare`."""
        return build.bare(self.config, trusted=self.trusted)

    def fill(self, model: Any, device: torch.device, *, drawn: bool = True, offloaded: bool = False) -> None:
        """Gives a bare model memory on the device and the weights that it starts from, this rank's part of them.

        Args:
            drawn: False: the weights come from a checkpoint.
            offloaded: parameters stay on the host.

        Raises:
            ConfigError: the architecture can't begin this way.
            DataError: the weights are damaged or not those of the config.
        """
        blueprint = self.bare() if drawn else None
        read = None if self.weights is None or blueprint is None else pretrained.reader(self.weights, blueprint)
        fill.fill(model, device, blueprint, seed=self.seed, offloaded=offloaded, read=read)

    def model(self) -> Any:
        """The whole model on the CPU, with its weights."""
        made = self.bare()
        self.fill(made, torch.device("cpu"))
        return made


def of(spec: TrainerSpec, *, vocab_size: int, device: torch.device | None = None) -> Origin:
    """The origin that the config asks for.

    Args:
        device: where it is trained; None: it isn't.

    Raises:
        ConfigError: the architecture is impossible, or there is no such model.
    """
    if device is not None:
        attention.require(spec, device)
    return ORIGINS[spec.task](spec, vocab_size)


def _scratch(spec: TrainerSpec, vocab_size: int) -> Origin:
    model, length = spec.model, spec.training.sequence_length
    if model.path is not None:
        return _described(model, Path(model.path), spec, vocab_size, field="trainer.model.path")
    config = build.configuration(model, vocab_size=vocab_size, sequence_length=length)
    return Origin(model.preset, config, spec.training.seed)


def _weights(spec: TrainerSpec, vocab_size: int) -> Origin:
    assert spec.initial_weights is not None  # noqa: S101 - the config has been validated
    folder = Path(spec.initial_weights.path)
    return _described(spec.model, folder, spec, vocab_size, field=pretrained.FIELD, weights=folder)


def _described(
    model: ModelSpec, folder: Path, spec: TrainerSpec, vocab_size: int, *, field: str, weights: Path | None = None
) -> Origin:
    config = pretrained.configuration(
        folder,
        vocab_size=vocab_size,
        sequence_length=spec.training.sequence_length,
        field=field,
        trusted=model.trust_remote_code,
    )
    config = build.for_training(config, model)
    return Origin(str(folder), config, spec.training.seed, weights, model.trust_remote_code)


ORIGINS: Mapping[str, Callable[[TrainerSpec, int], Origin]] = {"pretrain": _scratch, "finetune": _weights}
