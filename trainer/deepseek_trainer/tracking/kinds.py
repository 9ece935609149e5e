"""The kinds of logs by their names in the config, and what each needs. Importable without torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import NamedTuple

from deepseek_trainer.config import ConfigError, LoggingSpec
from deepseek_trainer.tracking.record import Open


class Needs(NamedTuple):
    """Module and class that write it; the package that it needs, and the trainer's extra that has it."""

    module: str
    sink: str
    package: str | None = None
    extra: str = ""


KINDS: Mapping[str, Needs] = {
    "JSONL": Needs("jsonl", "Jsonl"),
    "TensorBoard": Needs("tensorboard", "TensorBoard", "tensorboard", "tensorboard"),
    "WandB": Needs("wandb", "WandB", "wandb", "wandb"),
    "MLflow": Needs("mlflow", "MLflow", "mlflow", "mlflow"),
}


def require(spec: LoggingSpec) -> None:
    """Raises ConfigError if a package isn't installed that a kind needs."""
    for kind in spec.kinds:
        needs = KINDS[kind]
        if needs.package is not None and importlib.util.find_spec(needs.package) is None:
            raise ConfigError(
                f"trainer.logging.kinds: {kind} needs the {needs.package} package in the image; install "
                f"deepseek-trainer[{needs.extra}], or remove it"
            )


def opener(kind: str) -> Open:
    """What opens a log of that kind; its package is imported then, and not before."""

    def open_it(*given: object) -> object:
        needs = KINDS[kind]
        module = importlib.import_module(f"deepseek_trainer.tracking.{needs.module}")
        return getattr(module, needs.sink)(*given)

    return open_it  # type: ignore[return-value]
