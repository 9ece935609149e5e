"""Cross-entropy in the place of its logits: torch's loss and gradient, and no other tensor of that size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_trainer.kernels.cross_entropy import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytestmark = pytest.mark.training

IGNORED = -100
SIZES = [(7, 11, 1.0), (1, 5, 1.0), (64, 3001, 30.0), (5, 129_280, 1.0)]
"""Rows, words, and how far apart logits are."""


def drawn(rows: int, words: int, scale: float, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels; each third row is ignored."""
    generator = torch.Generator().manual_seed(rows)
    logits = scale * torch.randn(rows, words, generator=generator)
    labels = torch.randint(words, (rows,), generator=generator)
    labels[::3] = IGNORED
    return logits.to(device), labels.to(device)


def compare(rows: int, words: int, scale: float, device: str) -> None:
    given, labels = drawn(rows, words, scale, device)
    wanted = given.double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(wanted, labels, ignore_index=IGNORED, reduction="sum")
    squares = wanted.logsumexp(dim=-1)[labels != IGNORED].square().sum()
    torch.autograd.backward(0.7 * loss + 0.01 * squares)
    assert wanted.grad is not None

    logits = given.requires_grad_()
    found = cross_entropy(logits.clone(), labels, IGNORED)
    torch.autograd.backward(0.7 * found[0] + 0.01 * found[1])

    assert found[0].item() == pytest.approx(loss.item(), rel=1e-5)
    assert found[1].item() == pytest.approx(squares.item(), rel=1e-5)
    assert logits.grad is not None
    assert torch.allclose(logits.grad.double(), wanted.grad, rtol=1e-4, atol=1e-6)
    assert not logits.grad[::3].any(), "rows without a label"


@pytest.mark.parametrize(("rows", "words", "scale"), SIZES)
def test_loss_and_gradient_are_those_of_torch(rows: int, words: int, scale: float) -> None:
    compare(rows, words, scale, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible")
def test_so_on_a_gpu() -> None:
    for size in SIZES:
        compare(*size, "cuda")


def test_rows_without_any_label_are_worth_nothing() -> None:
    logits = torch.full((4, 9), torch.inf).requires_grad_()
    loss, squares = cross_entropy(logits * 1.0, torch.full((4,), IGNORED), IGNORED)
    assert (loss.item(), squares.item()) == (0.0, 0.0)


def test_what_is_no_number_is_none_in_the_loss() -> None:
    logits = torch.zeros(3, 9)
    logits[1, 2] = torch.nan
    assert cross_entropy(logits, torch.zeros(3, dtype=torch.int64), IGNORED)[0].isnan()


def test_no_other_tensor_has_their_size() -> None:
    """What torch's own makes: the logarithms, and backward two more."""
    rows, words = 16, 512
    made: dict[str, int] = {}

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            answer = func(*args, **(kwargs or {}))
            before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
            fresh = [leaf for leaf in tree_leaves(answer) if torch.is_tensor(leaf) and leaf.numel() == rows * words]
            made[name] += sum(leaf.untyped_storage()._cdata not in before for leaf in fresh)
            return answer

    def own(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels, IGNORED)[0]

    for name, compute in (("own", own), ("torch", torch.nn.functional.cross_entropy)):
        given, labels = drawn(rows, words, 1.0, "cpu")
        logits, made[name] = given.requires_grad_() * 2, 0
        with Counted():
            torch.autograd.grad(compute(logits, labels), logits)
    assert made == {"own": 0, "torch": 3}


def test_a_gradient_is_taken_once() -> None:
    """As it is made where the logarithms were, a second pass would find something else: torch refuses it."""
    given, labels = drawn(4, 8, 1.0, "cpu")
    logits = given.requires_grad_() * 2
    loss, _ = cross_entropy(logits, labels, IGNORED)
    torch.autograd.grad(loss, logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, logits)
