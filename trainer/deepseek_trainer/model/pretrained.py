"""A trained model in the format of Hugging Face (config.json, safetensors): its architecture and its weights.

What the folder lacks or does not fit is the config's fault (exit status 78); what is in it and can't be read is the
data's (65). A tensor that is missing is an error: transformers would make it up and only warn.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM
from transformers.utils import logging as transformers_logging

from deepseek_trainer import durable
from deepseek_trainer.config import ConfigError
from deepseek_trainer.errors import DataError, first_line
from deepseek_trainer.model.build import IMPLEMENTATION

log = logging.getLogger(__name__)

MODEL_TYPE = "deepseek_v3"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FIELD = "trainer.initialWeights.path"


def configuration(folder: Path, *, vocab_size: int, sequence_length: int) -> DeepseekV3Config:
    """The architecture, for training.

    Args:
        vocab_size: ids that the tokenizer can produce.

    Raises:
        ConfigError: there is no such model, or it does not fit the job.
    """
    said = _read(folder / CONFIG)
    if said.get("model_type") != MODEL_TYPE:
        raise ConfigError(
            f"{FIELD}: {folder} has a model of type {said.get('model_type')}; "
            f"the trainer knows {MODEL_TYPE}: take such a model, or an entrypoint of your own"
        )
    if said.get("quantization_config"):
        raise ConfigError(f"{FIELD}: the weights in {folder} are quantized; convert them to bfloat16 first")
    config = DeepseekV3Config(**{**said, **IMPLEMENTATION})
    if vocab_size > config.vocab_size:
        raise ConfigError(
            f"trainer.tokenizer: it has {vocab_size} ids, the model in {folder} only {config.vocab_size}; "
            "take tokenizer.kind initialWeights and the model's own tokenizer.json"
        )
    if sequence_length > config.max_position_embeddings:
        raise ConfigError(
            f"trainer.training.sequenceLength: {sequence_length} is more than the {config.max_position_embeddings} "
            f"positions of the model in {folder}; lower it"
        )
    # What only matters when text is generated, and dropout, which would make a resume another run.
    config.num_mtp_layers, config.attention_dropout, config.use_cache = 0, 0.0, False
    return config


def keep_configuration(folder: Path, config: DeepseekV3Config) -> None:
    """Puts the architecture there, unless it is there, so that checkpoints can be exported without their job."""
    content = described(config)
    file = folder / CONFIG
    if not file.is_file() or file.read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        durable.replace_bytes(file, content)


def described(config: DeepseekV3Config) -> bytes:
    """The content of config.json."""
    said = {**config.to_dict(), "architectures": [DeepseekV3ForCausalLM.__name__], "use_cache": True}
    return (json.dumps(said, indent=2, sort_keys=True) + "\n").encode()


def require_weights(folder: Path) -> None:
    """Raises ConfigError if files of the weights are missing."""
    if (folder / WEIGHTS).is_file():
        return
    if not (folder / INDEX).is_file():
        raise ConfigError(f"{FIELD}: {folder} has neither {WEIGHTS} nor {INDEX}; save the model as safetensors")
    names = sorted(set(_read(folder / INDEX).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ConfigError(f"{FIELD}: {folder} lacks {', '.join(missing) or 'all weights'}; copy the model again")


def load(folder: Path, config: DeepseekV3Config) -> Any:
    """The model on the CPU in fp32, every rank the whole of it; see `build.build`.

    Raises:
        DataError: the weights are damaged or not those of the config.
    """
    transformers_logging.disable_progress_bar()
    try:
        model, told = DeepseekV3ForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            **IMPLEMENTATION,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, transformers and torch each have their own for a damaged file
        raise DataError(
            f"{FIELD}: the weights in {folder} can't be read: {first_line(error)}; copy the model again"
        ) from error
    if missing := sorted(told["missing_keys"]):
        raise DataError(
            f"{FIELD}: the weights in {folder} lack {len(missing)} tensors, first {missing[0]}; copy the model again"
        )
    if extra := sorted(told["unexpected_keys"]):
        log.warning("weights=%s has %d tensors that are not used, first %s", folder, len(extra), extra[0])
    model.train()
    return model


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{FIELD}: {path}: {error.strerror}; mount the volume with the model, or correct the path"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{FIELD}: {path} is not JSON: {error}; copy the model again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{FIELD}: {path} is not an object; copy the model again")
    return found
