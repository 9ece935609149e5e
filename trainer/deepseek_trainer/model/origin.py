"""Where a run's model comes from, by task: one function in ORIGINS for each value of `trainer.task` that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config

from deepseek_trainer.config import TrainerSpec
from deepseek_trainer.model import build, presets, pretrained
from deepseek_trainer.model.presets import ModelShape


@dataclass(frozen=True)
class Origin:
    """A model before the first step.

    Attributes:
        name: for the log.
        weights: the folder of a trained model; None: the weights are drawn from the seed.
    """

    name: str
    config: DeepseekV3Config
    seed: int
    weights: Path | None = None

    def identity(self) -> dict[str, Any]:
        """The numbers that a checkpoint of this model must have in common with it."""
        names = [*(field.name for field in fields(ModelShape)), "vocab_size"]
        return {name: getattr(self.config, name) for name in names}

    def require(self) -> None:
        """Raises ConfigError if the weights are not there."""
        if self.weights is not None:
            pretrained.require_weights(self.weights)

    def model(self) -> Any:
        """The model with its weights; see `build.build`."""
        return self.bare() if self.weights is None else pretrained.load(self.weights, self.config)

    def bare(self) -> Any:
        """The model for weights that come from a checkpoint."""
        return build.build(self.config, seed=self.seed)


def of(spec: TrainerSpec, *, vocab_size: int) -> Origin:
    """The origin that the config asks for.

    Raises:
        ConfigError: the architecture is impossible, or there is no such model.
    """
    return ORIGINS[spec.task](spec, vocab_size)


def _scratch(spec: TrainerSpec, vocab_size: int) -> Origin:
    config = build.configuration(
        presets.shape(spec.model), vocab_size=vocab_size, sequence_length=spec.training.sequence_length
    )
    return Origin(spec.model.preset, config, spec.training.seed)


def _weights(spec: TrainerSpec, vocab_size: int) -> Origin:
    assert spec.initial_weights is not None  # noqa: S101 - the config has been validated
    folder = Path(spec.initial_weights.path)
    config = pretrained.configuration(folder, vocab_size=vocab_size, sequence_length=spec.training.sequence_length)
    return Origin(str(folder), config, spec.training.seed, folder)


ORIGINS: Mapping[str, Callable[[TrainerSpec, int], Origin]] = {"pretrain": _scratch, "finetune": _weights}
