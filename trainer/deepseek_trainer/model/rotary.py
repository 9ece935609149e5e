"""How rotary position embeddings are computed: in closed form (kernels/rotary.py), where a model's attention turns queries and
keys as Llama's does. What turns them otherwise (DeepSeek's, in pairs side by side) stays with transformers.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

from transformers.models.llama import modeling_llama

from deepseek_trainer.kernels import rotary
from deepseek_trainer.model.layers import same_code

_NAME = modeling_llama.apply_rotary_pos_emb.__name__


def settle(model: Any) -> None:
    """Has the model's attention compute so, in place."""
    for module in model.modules():
        forward = type(module).forward
        if isinstance(forward, FunctionType) and _NAME in forward.__code__.co_names and _suits(forward.__globals__):
            own = {**forward.__globals__, _NAME: rotary.apply_rotary_pos_emb}
            vars(module)["forward"] = MethodType(_copy(forward, own), module)


def _suits(names: dict[str, Any]) -> bool:
    return same_code(names.get(_NAME), modeling_llama.apply_rotary_pos_emb) and same_code(
        names.get("rotate_half"), modeling_llama.rotate_half
    )


def _copy(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
