"""Model FLOPs utilization: the closed form where it is known, and nothing where it isn't."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from deepseek_trainer.config import ModelSpec
from deepseek_trainer.model import presets
from deepseek_trainer.plan import utilization
from deepseek_trainer.plan.architecture import Architecture

DENSE = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1024,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
MATRICES = 4 * (4 * 256 * 256 + 3 * 256 * 1024) + 256 * 1000
PARAMETERS = MATRICES + 256 * 1000 + 9 * 256


def of(config: dict[str, Any], parameters: int = PARAMETERS, **given: Any) -> utilization.Utilization | None:
    told: dict[str, Any] = {"length": 512, "ranks": 4, "product": None, "peak": 1e12} | given
    return utilization.of(SimpleNamespace(**config), parameters=parameters, **told)


def test_it_is_the_share_of_the_peak_of_all_ranks_that_the_models_own_operations_are() -> None:
    found = of(DENSE)
    assert found is not None
    operations = 6 * MATRICES + 3 * 4 * 2 * 256 * 512
    assert found.at(1e6) == pytest.approx(operations * 1e6 / 4e12, rel=0.001)


@pytest.mark.parametrize(
    ("product", "peak", "per_rank"),
    [
        ("NVIDIA A100-SXM4-80GB", None, 312e12),
        ("NVIDIA H100 80GB HBM3", None, 989e12),
        ("NVIDIA H100 80GB HBM3", 1e12, 1e12),
        (None, 5e9, 5e9),
    ],
)
def test_the_peak_is_the_data_sheets_unless_it_is_given(
    product: str | None, peak: float | None, per_rank: float
) -> None:
    found = of(DENSE, product=product, peak=peak)
    assert found is not None
    assert found.peak == 4 * per_rank


@pytest.mark.parametrize(
    ("config", "given"),
    [
        pytest.param(DENSE, {"peak": None}, id="a CPU"),
        pytest.param(DENSE, {"peak": None, "product": "Unheard of"}, id="a GPU that is not in the table"),
        pytest.param(DENSE, {"parameters": 2 * PARAMETERS}, id="a model that the formulas count wrongly"),
        pytest.param({"model_type": "mamba"}, {}, id="a model without attention"),
    ],
)
def test_nothing_is_invented(config: dict[str, Any], given: dict[str, Any]) -> None:
    assert of(config, **given) is None


def test_modules_for_further_tokens_count() -> None:
    shape = presets.shape(ModelSpec(preset="deepseek-v3"))
    alone = Architecture.of(shape, 129_280)
    config = vars(shape) | {"vocab_size": 129_280, "num_mtp_layers": 1}
    found = of(config, 683_000_000_000, length=4096, peak=1.0, ranks=1)  # 671 B, and a module of 11.5 B besides
    assert found is not None
    assert found.operations / alone.operations(4096) == pytest.approx(1 + 1.6 / 37, abs=0.005)
