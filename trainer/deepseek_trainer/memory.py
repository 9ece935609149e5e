"""What to say when a GPU's memory is full: how much was there and was wanted, and what of the config makes it less."""

from __future__ import annotations

from deepseek_trainer.config import TrainerSpec
from deepseek_trainer.errors import TrainerError, first_line


class ExhaustedError(TrainerError):
    """A GPU's memory is full. Its message keeps torch's words, by which the operator knows the cause."""


def is_exhausted(error: BaseException) -> bool:
    """Whether it is torch's error for that."""
    return type(error).__name__ == "OutOfMemoryError"


def recipe(error: BaseException, spec: TrainerSpec) -> ExhaustedError:
    """The error for the user: what helps most and costs least first."""
    training, mesh = spec.training, spec.parallelism
    changes = []
    if training.micro_batch_size > 1:
        changes.append(f"training.microBatchSize: {training.micro_batch_size // 2} (now {training.micro_batch_size})")
    if training.precision == "fp32":
        changes.append("training.precision: bf16")
    if training.activation_checkpointing != "full":
        kept = "full" if training.activation_checkpointing == "selective" else "selective, or full"
        changes.append(f"training.activationCheckpointing: {kept}")
    if training.reduce_gradients == "step":
        changes.append("training.reduceGradients: microBatch, if a step has several micro-batches")
    if mesh.shard is not None or mesh.replicate is not None:
        changes.append("more ranks along parallelism.shard")
    changes.append("parallelism.tensor with the GPUs of a node")
    if training.micro_batch_size == 1:
        changes.append("parallelism.context, where sequences are long")
    if not training.cpu_offload:
        changes.append("training.cpuOffload: true")
    text = first_line(error).rstrip(".")
    return ExhaustedError(f"{text}; change one of trainer: {'; '.join(changes)}; `dsj plan` estimates what each saves")
