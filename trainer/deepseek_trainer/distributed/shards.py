"""Parameters as the optimizer's side sees them, whatever the layout: names, and this rank's part."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from deepseek_trainer.model.layers import plain_name

_COPIES = "_stages_with_it"


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by the name that they have in a checkpoint."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def with_part(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A tensor of the same layout whose part of this rank is `own`, wherever that is.

    Nobody is asked, and DTensor works nothing out, as it would for each shape; `from_local` would move a part that is
    on the host.
    """
    return DTensor(own, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else own


def zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of the same shape and layout."""
    return with_part(tensor, torch.zeros_like(local(tensor.detach())))


def forget_gathered(model: nn.Module) -> None:
    """To be called when shards were changed by hand: the next forward pass gathers them anew."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def share_over_stages(parameter: nn.Parameter) -> None:
    """Puts on record that two stages of a pipeline have this parameter: an embedding that the last needs as well."""
    setattr(parameter, _COPIES, 2)


def copies(parameter: torch.Tensor) -> int:
    """How many stages of a pipeline have this parameter."""
    found: int = getattr(parameter, _COPIES, 1)
    return found
