"""Sequences that are divided among ranks: ring attention, and everything that looks beyond a rank's part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from deepseek_trainer.config import ConfigError
from deepseek_trainer.distributed.context import divide
from support.contexts import ATTENTIONS, MESHES
from support.procs import start_training
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
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
    sizes: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    config = Qwen2Config(
        **sizes,
        num_attention_heads=2,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ConfigError, match=r"Qwen2ForCausalLM has sliding_attention, which needs .* set context to 1"):
        divide(model, cast(Any, "a mesh"), cast(Any, "waits"))
