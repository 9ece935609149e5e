"""GPUs by name: memory, and what they compute and move at best, from the manufacturers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
LINK_SHARE = 0.8
"""Of a link's, or a memory's, bytes a second that is reached."""


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        memory: bytes that a process can have.
        peak: dense bf16 operations a second.
        link: bytes a second and direction to the GPUs of its node.
        network: bytes a second and direction to other nodes, its share of the usual adapters.
        bandwidth: bytes a second between it and its own memory.
        product: what the label nvidia.com/gpu.product and CUDA's name of it contain.
    """

    memory: float
    peak: float
    link: float
    network: float
    bandwidth: float
    product: tuple[str, ...]


GPUS = {
    "a100-40": Gpu(39.4 * GIB, 312e12, 300e9, 25e9, 1.56e12, ("A100", "40GB")),
    "a100-80": Gpu(79.1 * GIB, 312e12, 300e9, 25e9, 2.04e12, ("A100", "80GB")),
    "h100": Gpu(79.1 * GIB, 989e12, 450e9, 50e9, 3.35e12, ("H100",)),
    "h200": Gpu(139.8 * GIB, 989e12, 450e9, 50e9, 4.8e12, ("H200",)),
    "b200": Gpu(178.0 * GIB, 2250e12, 900e9, 50e9, 8e12, ("B200",)),
    "l40s": Gpu(44.3 * GIB, 362e12, 32e9, 12.5e9, 0.86e12, ("L40S",)),
}
USUAL = "a100-80"


def of_product(product: str) -> str | None:
    """The name in GPUS of a product; None: it isn't there."""
    return next((name for name, gpu in GPUS.items() if all(part in product for part in gpu.product)), None)
