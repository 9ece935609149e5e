"""A GPU whose memory is full: the user is told what to change, and the operator still knows the cause."""

from __future__ import annotations

from deepseek_operator.decide.markers import OUT_OF_MEMORY
from deepseek_trainer.config import TrainerSpec
from deepseek_trainer.memory import is_exhausted, recipe


class OutOfMemoryError(RuntimeError):
    """As torch's, which this test does without."""


ERROR = OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.4 GiB of which 1 GiB is free.\nmore"
)


def test_the_recipe_names_what_is_not_used_yet() -> None:
    plain = TrainerSpec.model_validate({"training": {"steps": 1, "microBatchSize": 8}})
    told = str(recipe(ERROR, plain))
    for change in (
        "microBatchSize: 4 (now 8)",
        "precision: bf16",
        "selective, or full",
        "cpuOffload: true",
        "dsj plan",
    ):
        assert change in told
    training = {
        "steps": 1,
        "microBatchSize": 1,
        "precision": "bf16",
        "activationCheckpointing": "full",
        "cpuOffload": True,
    }
    used = str(recipe(ERROR, TrainerSpec.model_validate({"training": training})))
    assert "microBatchSize" not in used
    assert "activationCheckpointing" not in used
    assert "parallelism.tensor" in used
    assert "parallelism.context" in used


def test_the_operator_still_takes_it_for_what_it_is() -> None:
    assert is_exhausted(ERROR)
    assert not is_exhausted(RuntimeError("CUDA out of memory"))
    told = str(recipe(ERROR, TrainerSpec.model_validate({"training": {"steps": 1}}))).lower()
    assert any(marker in told for marker in OUT_OF_MEMORY)
    assert "\n" not in told
