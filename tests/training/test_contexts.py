"""Sequences that are divided among ranks: ring attention, and everything that looks beyond a rank's part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.config import ConfigError
from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.config.parallelism import Divisible
from support.contexts import ATTENTIONS, MESHES
from support.procs import start_training
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

pytestmark = [pytest.mark.training, pytest.mark.timeout(200)]


def test_parts_of_sequences_make_the_whole(tmp_path: Path) -> None:
    """Outputs and gradients of attention; then losses, gradients and the experts' loads of a DeepSeek-V3 with documents,
    padding, z-loss, the sequence-wise loss, capacity and a token further, none of which may end at a part's border."""
    ended = start_training({}, world_size=4, folder=tmp_path, module="support.contexts").wait()
    assert all(rank.exit_code == 0 for rank in ended), "\n".join(rank.output[-3000:] for rank in ended)
    said = [json.loads(line) for line in ended[0].output.splitlines() if line.startswith("{")]
    assert len(said) == len(ATTENTIONS) + len(MESHES)
    for case in said:
        assert case["difference"] < 5e-6, case


def test_layers_that_see_a_window_are_refused() -> None:
    few: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    config = Qwen2Config(
        **few,
        num_attention_heads=2,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    )
    for axis, sizes in (("context", Mesh(context=2)), ("pipeline", Mesh(pipeline=2, stages=2))):
        with pytest.raises(ConfigError, match=rf"{axis}: .* sliding_attention.*; set {axis} to 1"):
            Divisible.of(config).require(sizes)
