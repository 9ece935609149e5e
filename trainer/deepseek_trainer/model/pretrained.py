"""A model in the format of Hugging Face (config.json, safetensors): its architecture and its weights.

What the folder lacks or does not fit is the config's fault (exit status 78); what is in it and can't be read is the
data's (65). A tensor that is missing is an error and never made up, but for modules that a model may have or not.
Python files in the folder are run only with `trainer.model.trustRemoteCode`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from deepseek_trainer import durable
from deepseek_trainer.config import ConfigError
from deepseek_trainer.errors import DataError, first_line
from deepseek_trainer.model.fill import Read
from deepseek_trainer.model.mtp import SHARED
from deepseek_trainer.model.recipes import Part
from deepseek_trainer.model.weights import INDEX, WEIGHTS, Weights

log = logging.getLogger(__name__)

CONFIG = "config.json"
FIELD = "trainer.initialWeights.path"


def configuration(
    folder: Path, *, vocab_size: int, sequence_length: int, field: str = FIELD, trusted: bool = False
) -> PreTrainedConfig:
    """The architecture.

    Args:
        vocab_size: ids that the tokenizer can produce.
        trusted: whether Python code beside it may be run.

    Raises:
        ConfigError: there is no such model, or it does not fit the job.
    """
    said = _read(folder / CONFIG, field)
    if said.get("quantization_config"):
        raise ConfigError(f"{field}: the weights in {folder} are quantized; convert them to bfloat16 first")
    config = _parsed(folder, said, field, trusted)
    if vocab_size > config.vocab_size:
        raise ConfigError(
            f"trainer.tokenizer: it has {vocab_size} ids, the model in {folder} only {config.vocab_size}; "
            "take tokenizer.kind initialWeights and the model's own tokenizer.json"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and sequence_length > positions:
        raise ConfigError(
            f"trainer.training.sequenceLength: {sequence_length} is more than the {positions} "
            f"positions of the model in {folder}; lower it"
        )
    return config


def parsed(said: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of an architecture that transformers has.

    Raises:
        ValueError: it has none of that type that predicts the next token, or the numbers are impossible.
    """
    kind = said.get("model_type")
    if kind not in CONFIG_MAPPING or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"transformers has no causal language model of type {kind}")
    config: PreTrainedConfig = CONFIG_MAPPING[kind].from_dict(said)
    return config


def keep_configuration(folder: Path, config: PreTrainedConfig) -> None:
    """Puts the architecture there, unless it is there, so that checkpoints can be exported without their job."""
    content = described(config)
    file = folder / CONFIG
    if not file.is_file() or file.read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        durable.replace_bytes(file, content)


def described(config: PreTrainedConfig) -> bytes:
    """The content of config.json."""
    said = {**config.to_dict(), "use_cache": True}
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        said["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    return (json.dumps(said, indent=2, sort_keys=True) + "\n").encode()


def require_weights(folder: Path) -> None:
    """Raises ConfigError if files of the weights are missing."""
    if (folder / WEIGHTS).is_file():
        return
    if not (folder / INDEX).is_file():
        raise ConfigError(f"{FIELD}: {folder} has neither {WEIGHTS} nor {INDEX}; save the model as safetensors")
    names = sorted(set(_read(folder / INDEX, FIELD).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ConfigError(f"{FIELD}: {folder} lacks {', '.join(missing) or 'all weights'}; copy the model again")


def reader(folder: Path, model: Any) -> Read:
    """Reads parts of the weights of a model that is on the meta device and isn't cut up.

    Raises:
        DataError: the weights are damaged or not those of the config; from each call as well.
    """
    with _Told(folder):
        weights = Weights(folder, model)
    further = {name for name in model.state_dict() if name.startswith(_further(model))}
    absent = further if further <= set(weights.missing) else set()
    if absent:
        log.warning("weights=%s has no modules for further tokens; they begin at random", folder)
    if missing := [name for name in weights.missing if name not in absent]:
        raise DataError(
            f"{FIELD}: the weights in {folder} lack {len(missing)} tensors, first {missing[0]}; copy the model again"
        )
    if extra := [name for name in weights.extra if not name.endswith(tuple(SHARED))]:
        log.warning("weights=%s has %d tensors that are not used, first %s", folder, len(extra), extra[0])

    def read(name: str, shape: torch.Size, part: Part) -> torch.Tensor | None:
        if name in absent:
            return None
        with _Told(folder):
            return weights.read(name, shape, part)

    return read


class _Told:
    """Makes an error of ours of whatever safetensors, transformers and torch raise for a damaged file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise DataError(
                f"{FIELD}: the weights in {self._folder} can't be read: {first_line(error)}; copy the model again"
            ) from error


def _further(model: Any) -> tuple[str, ...]:
    """What the names of the modules for further tokens begin with."""
    first, depth = model.config.num_hidden_layers, getattr(model.config, "num_mtp_layers", 0)
    return tuple(f"model.layers.{first + k}." for k in range(depth))


def _parsed(folder: Path, said: dict[str, Any], field: str, trusted: bool) -> PreTrainedConfig:
    try:
        if trusted and "auto_map" in said:
            return AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
        return parsed(said)
    except Exception as error:  # a file from anywhere, and code from anywhere
        raise ConfigError(
            f"{field}: {folder} has no model that can be trained: {first_line(error)}; take another one, or an entrypoint of "
            "your own; if it brings code that you trust, set trainer.model.trustRemoteCode"
        ) from error


def _read(path: Path, field: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{field}: {path}: {error.strerror}; mount the volume with the model, or correct the path"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{field}: {path} is not JSON: {error}; copy the model again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{field}: {path} is not an object; copy the model again")
    return found
