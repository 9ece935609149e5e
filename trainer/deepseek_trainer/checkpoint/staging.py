"""The copy that a save is written from while training goes on: in host memory, of its own, and used again each time.

Rule: nothing of a copy is shared with what training changes, whatever the device. On a CPU a tensor that is "moved to
the host" is the very tensor that the next step writes to, so every tensor is copied. All are copied when `copy`
returns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from deepseek_trainer.distributed.shards import local, with_part


class Staging:
    """Host memory as large as this rank's part of the state; pinned where it is copied from an accelerator.

    One copy at a time: the next one overwrites it.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[object, ...], torch.Tensor] = {}

    @torch.no_grad()
    def copy(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of the same shape, with the values of this moment."""
        devices: set[torch.device] = set()
        copied: dict[str, Any] = self._copy((), state, devices)
        for device in devices:
            torch.get_device_module(device).synchronize(device)
        return copied

    def _copy(self, place: tuple[object, ...], value: Any, devices: set[torch.device]) -> Any:
        if isinstance(value, dict):
            return {key: self._copy((*place, key), part, devices) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy((*place, i), part, devices) for i, part in enumerate(value))
        if isinstance(value, DTensor):
            return with_part(value, self._tensor(place, local(value), devices))
        return self._tensor(place, value, devices) if isinstance(value, torch.Tensor) else value

    def _tensor(self, place: tuple[object, ...], tensor: torch.Tensor, devices: set[torch.device]) -> torch.Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            pinned = tensor.device.type == "cuda"
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._buffers[place] = buffer
        buffer.copy_(tensor, non_blocking=True)
        if tensor.device.type != "cpu":
            devices.add(tensor.device)
        return buffer
