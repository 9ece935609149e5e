"""Activation checkpointing: what a layer's backward pass needs is kept, or computed again from the layer's input.

    none         all is kept
    selective    the outputs of matrix products and of attention are kept; what is cheap to compute is computed again
    full         the layer's input alone is kept, and the whole layer is computed again: a third more computation

Rule: it is inside of FSDP's hooks, so that a layer's weights are gathered once for both, and no parameter's name changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import (
    SAC_IGNORED_OPS,
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from deepseek_trainer.distributed import ring
from deepseek_trainer.model.layers import router

Mode = Literal["none", "selective", "full"]

_aten = torch.ops.aten
_KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.bmm.default,
        _aten.addmm.default,
        _aten._grouped_mm.default,
        _aten._scaled_mm.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        ring.OPERATION,
    }
)

_NOT_COUNTED = frozenset(
    {
        torch.ops.profiler._record_function_enter_new.default,
        torch.ops.profiler._record_function_exit._RecordFunction,
    }
)
"""What FSDP does around a module within a layer, and the second time otherwise than the first."""


def apply(layer: Any, mode: Mode) -> None:
    """Has a layer keep so much, in place; before it is sharded."""
    if mode == "none":
        return
    contexts: dict[str, Any] = {}
    if mode == "selective":
        SAC_IGNORED_OPS.update(_NOT_COUNTED)
        contexts["context_fn"] = _PLAIN if router(layer) is None else partial(_contexts, layer)
    forward = layer.forward

    def checkpointed(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **contexts, **named)

    layer.forward = checkpointed


def _contexts(layer: Any) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of a layer with experts: FSDP is around modules within it too. Such a layer is never compiled whole."""
    first, again = _PLAIN()
    return _gathered(layer, first), _gathered(layer, again)


@contextmanager
def _gathered(layer: Any, kept: AbstractContextManager[Any]) -> Iterator[None]:
    """Weights that FSDP gathers within the layer are gathered before anything is counted: one time they may be there already."""
    for module in layer.modules():
        if isinstance(module, FSDPModule) and module is not layer:
            module.unshard()
    with kept:
        yield


def _policy(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


_PLAIN = partial(create_selective_checkpoint_contexts, _policy)
"""The contexts that torch.compile knows: the first pass and the second."""
