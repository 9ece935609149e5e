"""A backward pass in two halves: the first leaves out the gradients of weights, and with the second they are those of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from deepseek_trainer.distributed import recompute
from deepseek_trainer.distributed.deferred import Deferral
from deepseek_trainer.model.layers import decoder_layers
from deepseek_trainer.model.origin import Origin
from support import layouts

pytestmark = pytest.mark.training
IN_THE_FIRST = ("embed_tokens", "wte", "wpe", "lm_head", "mlp.gate.weight")
"""Of the matrices; of vectors all are."""


@pytest.mark.parametrize(
    ("origin", "mode"),
    [
        (layouts.deepseek, "none"),
        (layouts.deepseek, "selective"),
        (layouts.deepseek, "full"),
        (layouts.dense, "selective"),
        (layouts.gpt2, "none"),
    ],
)
def test_two_halves_are_a_whole(origin: Callable[[], Origin], mode: recompute.Mode) -> None:
    plain, model = origin().model(), origin().model()
    for layer in decoder_layers(model):
        recompute.apply(layer, mode)
    deferral = Deferral()
    deferral.put_into(model)
    rows = layouts.batch(0)
    layouts.loss_of(plain, rows).minimized.backward()
    with deferral.left_out() as later:
        layouts.loss_of(model, rows).minimized.backward()
    for name, parameter in model.named_parameters():
        first = parameter.ndim == 1 or any(part in name for part in IN_THE_FIRST)
        assert (parameter.grad is not None) == first, name
    for add in later:
        add()
    wanted = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=0, atol=1e-5)
