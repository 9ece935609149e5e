"""What a trainer's config asks for, as the formulas want it; and which meshes it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError

from deepseek_trainer.config import ConfigError, RunConfig, TrainerSpec, problems
from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.config.parallelism import Divisible, ParallelismSpec
from deepseek_trainer.model import presets
from deepseek_trainer.plan.architecture import Architecture
from deepseek_trainer.plan.workload import Workload

DEEPSEEK_VOCABULARY = 129_280


def workload(spec: TrainerSpec, model_config: Path | None) -> tuple[Workload, Divisible]:
    """The work of a step, and what of the model can be shared out.

    Args:
        model_config: config.json of the model, where the config doesn't say what it is (task finetune).

    Raises:
        ConfigError: it can't be read, or the config's numbers don't fit together.
    """
    shape, vocabulary = _model(spec, model_config)
    shape.num_mtp_layers = spec.model.multi_token.depth  # whatever a published config says
    training = spec.training
    work = Workload(
        Architecture.of(shape, vocabulary),
        length=training.sequence_length,
        global_batch=training.global_batch_size,
        micro_batch=training.micro_batch_size,
        bf16=training.precision != "fp32",
        checkpointing=training.activation_checkpointing,
        cpu_offload=training.cpu_offload,
        reduced_each_time=training.reduce_gradients == "microBatch",
    )
    return work, Divisible.of(shape)


def refusal(config: RunConfig, parts: Divisible) -> Callable[[Mesh], None]:
    """What raises ConfigError if the model can't be shared out over a mesh, or the config would be wrong with it."""
    given = config.model_dump(by_alias=True)

    def refuse(mesh: Mesh) -> None:
        parts.require(mesh)
        try:
            trainer = {**given["trainer"], "parallelism": ParallelismSpec.of(mesh)}
            RunConfig.model_validate({**given, "trainer": trainer})
        except ValidationError as error:
            raise ConfigError("; ".join(problems.lines(error, RunConfig))) from error

    return refuse


def _model(spec: TrainerSpec, model_config: Path | None) -> tuple[Any, int | None]:
    """What is trained, by transformers' names, and its vocabulary where those don't say it."""
    if model_config is None and spec.model.path is not None:
        model_config = Path(spec.model.path) / "config.json"
    if model_config is not None:
        try:
            return SimpleNamespace(**json.loads(model_config.read_bytes())), None
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{model_config}: {error}; give the config.json of a model") from error
    vocabulary = spec.tokenizer.vocab_size if spec.tokenizer.kind == "bpe" else DEEPSEEK_VOCABULARY
    return presets.shape(spec.model), vocabulary
