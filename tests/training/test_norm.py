"""RMSNorm in kernels of our own: what they compute, what they compile to, and when they are taken.

There is no GPU where CI runs: the kernels are interpreted there, and compiled for GPUs without being run.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_trainer.config import ConfigError, TrainerSpec
from deepseek_trainer.distributed.world import join
from deepseek_trainer.kernels import closed_form
from deepseek_trainer.model import norm, origin
from support import normed, zygote
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

TRITON = Path(os.environ.get("TRITON_FOLDER", f"{sys.prefix}/triton"))
"""By tools/install.sh."""
GPU = torch.device("cuda")


@pytest.mark.skipif(not (TRITON / "triton").is_dir(), reason="Triton is not installed")
@pytest.mark.parametrize("check", ["formulas", "layouts", "modules", "kept", "models", "refusals", "code", "graphs"])
def test_the_kernels(check: str, tmp_path: Path) -> None:
    """Each check is a function of support/normed.py, in a process of its own: who imports Triton has it for good."""
    interpreted = {} if check in ("code", "graphs") else {"TRITON_INTERPRET": "1"}
    process = zygote.shared().start(
        [sys.executable, "-m", "support.normed", check, str(TRITON)],
        environ={**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), **interpreted},
        log=tmp_path / "log",
    )
    try:
        status = process.wait(240)
    finally:
        process.kill()
    assert status == 0, (tmp_path / "log").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible")
def test_the_kernels_on_a_gpu() -> None:
    normed.formulas("cuda")
    normed.layouts("cuda")
    model = origin.of(a_spec("Auto"), vocab_size=64).bare()
    with join("nccl", {}) as world:
        assert norm.settle(model, a_spec("Auto"), world, torch.bfloat16) == "Fused"


def a_spec(chosen: str, architecture: str = "DeepSeekV3", **training: Any) -> TrainerSpec:
    return TrainerSpec.model_validate(
        {
            "model": {"architecture": architecture, "hiddenSize": 32, "numLayers": 2, "norm": chosen},
            "training": {"steps": 1, "sequenceLength": 16, **training},
        }
    )


def test_without_a_gpu_there_is_no_kernel() -> None:
    model = origin.of(a_spec("Auto"), vocab_size=64).bare()
    with join("gloo", {}) as world:
        assert norm.settle(model, a_spec("Auto", compile="layers"), world, torch.float32) == "Eager"
        assert norm.settle(model, a_spec("Auto"), world, torch.bfloat16) == "Eager"
        with pytest.raises(ConfigError, match=r"trainer\.model\.norm: Fused needs a GPU, .*; take Auto"):
            norm.settle(model, a_spec("Fused"), world, torch.float32)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("shape", normed.SHAPES, ids=str)
def test_the_closed_form_has_the_formulas_of_the_kernel(shape: tuple[int, ...]) -> None:
    wide, weight, dy = normed.some(*shape[:-1], 2 * shape[-1]), normed.some(shape[-1]), normed.some(*shape)
    for x in (normed.some(*shape), wide[..., ::2], 1e-4 * normed.some(*shape)):
        inputs = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = closed_form.rms_norm(*inputs, normed.EPS)
        found = y.detach(), *torch.autograd.grad(y, inputs, dy)
        for own, (expected, size) in zip(found, normed.reference(x, weight, dy).values(), strict=True):
            assert own.shape == expected.shape
            assert bool(((own.double() - expected).abs() <= 1e-5 * size).all())


@pytest.mark.parametrize("recomputed", ["none", "selective", "full"])
def test_a_model_on_a_cpu_has_the_closed_form_and_the_same_gradients(recomputed: str) -> None:
    with join("gloo", {}) as world:
        expected, theirs, none = normed.trained(world, normed.spec_of({}, norm="Eager"))
        spec = normed.spec_of({"activationCheckpointing": recomputed}, norm="Auto")
        loss, ours, swapped = normed.trained(world, spec, how="ClosedForm")
    assert none == 0 < swapped
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, own in ours.items():
        assert torch.allclose(own, theirs[name], atol=1e-6), name


def test_it_may_be_chosen_for_a_model_that_is_described_elsewhere() -> None:
    trained = {"task": "finetune", "initialWeights": {"path": "/m"}, "tokenizer": {"kind": "initialWeights"}}
    TrainerSpec.model_validate({**trained, "model": {"norm": "Eager"}, "training": {"steps": 1}})
    TrainerSpec.model_validate({"model": {"norm": "Eager", "path": "/m"}, "training": {"steps": 1}})


def test_without_triton_a_gpu_does_without_the_kernel_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = origin.of(a_spec("Auto"), vocab_size=64).bare()
    with join("gloo", {}) as here, caplog.at_level(logging.WARNING, norm.__name__):
        world = replace(here, device=GPU)
        assert norm.settle(model, a_spec("Eager"), world, torch.bfloat16) == "Eager"
        assert norm.settle(model, a_spec("Auto", compile="layers"), world, torch.bfloat16) == "Eager"
        assert not caplog.records, "that is what was asked for"
        assert norm.settle(model, a_spec("Auto"), world, torch.bfloat16) == "Eager"
        assert "needs the package triton" in caplog.text
        with pytest.raises(
            ConfigError, match=r"Fused needs the package triton, and the image hasn't got it; take Auto"
        ):
            norm.settle(model, a_spec("Fused"), world, torch.bfloat16)


def test_only_norms_of_that_formula_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    assert norm._known(Qwen3RMSNorm)
    assert not norm._known(GemmaRMSNorm)
    assert not norm._known(torch.nn.RMSNorm)
    model = origin.of(a_spec("Auto", "GPT2"), vocab_size=64).bare()
    with join("gloo", {}) as world, caplog.at_level(logging.WARNING, norm.__name__):
        assert norm.settle(model, a_spec("Auto", "GPT2"), replace(world, device=GPU), torch.bfloat16) == "Eager"
        assert not caplog.records, "LayerNorm is one kernel as it is"
        with pytest.raises(ConfigError, match=r"the model has no RMSNorm that is known; take Auto"):
            norm.settle(model, a_spec("Fused", "GPT2"), world, torch.float32)
