"""Checks of the norm's kernels, each in a process of its own: `-m support.normed CHECK FOLDER`, where Triton is.

With TRITON_INTERPRET=1 the kernels run on a CPU, in numpy. Without, a CPU can compile them for a GPU and not run them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepseek_trainer import start
from deepseek_trainer.config import ConfigError, TrainerSpec
from deepseek_trainer.distributed import alone, mesh, sharding
from deepseek_trainer.distributed.shards import local
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.model import norm, origin
from deepseek_trainer.pulse import PulseWriter
from torch.nn.functional import cross_entropy
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2RMSNorm
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

EPS = 1e-6
SHAPES = ((2, 3, 7), (9, 512), (3, 1536), (2, 7168), (1, 16384), (300, 24), (3, 1), (0, 16), (2, 0, 16))
"""With rows of no power of two, and of several rows in a tile."""
CODE = ((48, 512, torch.bfloat16), (16, 7168, torch.bfloat16), (1, 16384, torch.float32), (5, 24, torch.float16))
SLACK = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2**-6}
"""Two roundings of the type. The interpreter cuts bf16 off instead of rounding it, which is twice as much."""
LEAST = {dtype: torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps for dtype in SLACK}
"""The step between their smallest numbers."""


def reference(x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The formulas, in fp64, each result with the size of what was added up for it."""
    x, weight, dy = x.detach().double(), weight.detach().double(), dy.double()
    rms = (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    n, g = x / rms, dy * weight
    along = n * (g * n).mean(-1, keepdim=True)
    rows = (dy * n).reshape(-1, x.shape[-1])
    return {
        "y": (n * weight, (n * weight).abs()),
        "dx": ((g - along) / rms, (g.abs() + along.abs()) / rms),
        "dweight": (rows.sum(0), rows.abs().sum(0)),
    }


def computed(x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the kernels make of it."""
    from deepseek_trainer.kernels.rms_norm import rms_norm

    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = rms_norm(x, weight, EPS)
    dx, dweight = torch.autograd.grad(y, (x, weight), dy)
    return {"y": y.detach(), "dx": dx, "dweight": dweight}


def compare(x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor) -> None:
    """Fails where the kernels differ from the formulas by more than roundings."""
    found, slack = computed(x, weight, dy), SLACK[x.dtype]
    assert (found["y"].dtype, found["dx"].dtype, found["dweight"].dtype) == (dy.dtype, x.dtype, weight.dtype)
    for name, (expected, size) in reference(x, weight, dy).items():
        allowed = slack * (size if name == "dweight" else expected.abs()) + 1e-5 * size + LEAST[x.dtype]
        assert found[name].shape == expected.shape, (name, x.shape)
        off = (found[name].double() - expected).abs()
        assert bool((off <= allowed).all()), (name, x.shape, x.dtype, float((off - allowed).max()))


def some(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(device, dtype)


def formulas(device: str = "cpu") -> None:
    for shape in SHAPES:
        for dtype in SLACK:
            weight, dy = some(shape[-1], dtype=dtype, device=device), some(*shape[::-1], dtype=dtype, device=device)
            compare(some(*shape, dtype=dtype, device=device), weight, dy.reshape(shape))
    half = some(4, 40, dtype=torch.bfloat16, device=device)
    compare(half, some(40, device=device), some(4, 40, device=device))  # weights in fp32: so is what comes out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepseek_trainer.kernels.rms_norm._PROGRAMS", 2)
        compare(some(300, 24, device=device), some(24, device=device), some(300, 24, device=device))  # three tiles


def layouts(device: str = "cpu") -> None:
    whole, weight, dy = some(3, 6, 40, device=device), some(32, device=device), some(3, 6, 32, device=device)
    compare(whole[..., 4:36], weight, dy)  # a part of each row, as of DeepSeek's latent keys
    compare(whole[:, ::2, :32], weight, dy[:, ::2])
    compare(whole[:1, :1, :32].expand(3, 6, 32), weight, dy)
    compare(some(32, 6, device=device).T, weight, some(6, 32, device=device))  # rows that don't lie together
    compare(whole[..., :32], weight, some(1, device=device).expand(3, 6, 32))  # the gradient of a sum
    compare(whole[..., :32], some(64, device=device)[::2], dy)
    compare(whole[0, 0, :32], weight, dy[0, 0])


def modules() -> None:
    """Equal to transformers' own but for the order in the sum of squares: nearly all are the same bits."""
    for kind in (DeepseekV3RMSNorm, DeepseekV2RMSNorm, Qwen2RMSNorm, LlamaRMSNorm):
        for dtype, same in ((torch.float16, 0.999), (torch.float32, 0.5)):
            module = kind(1536, eps=EPS).to(dtype)
            module.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
            x = some(16, 1536, dtype=dtype)
            found, own = computed(x, module.weight, torch.ones_like(x))["y"], module(x)
            assert torch.allclose(found, own, rtol=1e-3 if dtype == torch.float16 else 1e-6)
            assert float((found == own).float().mean()) > same, (kind, dtype)


def kept() -> None:
    """For the backward pass of bf16 it keeps the input, which is there anyway, and not four bytes more of each number."""
    from deepseek_trainer.kernels.rms_norm import rms_norm

    module = LlamaRMSNorm(1024).bfloat16()
    x = some(64, 1024, dtype=torch.bfloat16).requires_grad_()
    sizes: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    figures = []
    for compute in (module, lambda x: rms_norm(x, module.weight, EPS)):
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            held = compute(x)
        figures.append(round(sum(sizes.values()) / held.numel(), 1))
    assert figures == [6.0, 2.0], figures


def spec_of(training: dict[str, Any], **model: Any) -> TrainerSpec:
    sizes = {"hiddenSize": 32, "numLayers": 2, "numExperts": 4, "multiToken": {"depth": 1}}
    return TrainerSpec.model_validate(
        {"model": {**sizes, **model}, "training": {"steps": 1, "sequenceLength": 16, **training}}
    )


def trained(world: World, spec: TrainerSpec, how: str | None = None) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and gradients of a sharded model, and how many of its norms were replaced; by what (None: as the spec says)."""
    source = origin.of(spec, vocab_size=64)
    model = source.bare()
    assert start.settle(model, spec, world) == (how or spec.model.norm)
    sharding.shard(
        model,
        world,
        mesh.groups(spec.parallelism.mesh(1), world),
        spec.training,
        Waits(PulseWriter(None), world.device),
    )
    source.fill(model, world.device, offloaded=spec.training.cpu_offload)
    alone.settle(model, world)
    rows = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(2))
    said = model(input_ids=rows[:, :-1])
    losses = [cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()) for logits in (said[0], *said[1])]
    loss = torch.stack(losses).sum()
    torch.autograd.backward(loss)
    swapped = sum("forward" in vars(module) for module in model.modules() if type(module) is DeepseekV3RMSNorm)
    return loss.item(), {name: local(p.grad) for name, p in model.named_parameters() if p.grad is not None}, swapped


def models() -> None:
    """A DeepSeek-V3 with a module for further tokens: two norms a layer and two in its attention, and four more."""
    with join("gloo", {}) as world:
        for precision, recomputed, offloaded, slack in (
            ("fp32", "selective", False, 1e-5),  # without FSDP2
            ("fp16", "full", False, 5e-3),
            ("fp32", "none", True, 1e-5),  # with all of it: weights are freed after the forward pass and gathered again
        ):
            training = {"precision": precision, "activationCheckpointing": recomputed, "cpuOffload": offloaded}
            expected, theirs, none = trained(world, spec_of(training, norm="Eager"))
            loss, ours, swapped = trained(world, spec_of(training, norm="Fused"))
            assert (none, swapped) == (0, 3 * 4 + 4)
            assert abs(loss - expected) < slack * expected, (precision, loss, expected)
            assert ours.keys() == theirs.keys(), "names are those of a checkpoint"
            own, whole = (torch.cat([gradient.flatten() for gradient in of.values()]) for of in (ours, theirs))
            off = float((own - whole).norm() / whole.norm())
            assert off < slack, (precision, off)


def refusals() -> None:
    """A kernel that fails or computes something else never comes into a model."""
    from deepseek_trainer.kernels import rms_norm

    module, cpu, true = LlamaRMSNorm(64), torch.device("cpu"), rms_norm.rms_norm
    assert norm._lack([module], cpu, torch.float32) is None
    assert norm._lack([module], cpu, torch.bfloat16) is None
    wide = norm._lack([module, LlamaRMSNorm(16400)], cpu, torch.float32)
    assert wide == "takes rows of 16384 numbers at most, and the model's have 16400"
    for wrong in (lambda x, w, eps: true(x, w, eps) * 1.001, lambda x, w, eps: true(x, w, eps) * float("nan")):
        rms_norm.rms_norm = wrong
        assert " off on this device" in (norm._lack([module], cpu, torch.float32) or "")

    def fails(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify …")

    rms_norm.rms_norm = fails
    assert norm._lack([module], cpu, torch.float32) == "fails on this device: RuntimeError: Failed to find C compiler."
    rms_norm.rms_norm = true
    other_fails: Any = SimpleNamespace(device=cpu, gather=lambda own: [own, "fails on this device: …"])
    with pytest.raises(ConfigError, match=r"trainer\.model\.norm: Fused fails on this device: .*; take Auto"):
        norm.settle(module, spec_of({}, norm="Fused"), other_fails, torch.float32)
    assert "forward" not in vars(module)


@contextmanager
def no_gpu(capability: int) -> Iterator[list[Any]]:
    """Has Triton compile for a GPU that isn't there. Yields what was compiled in place of being run."""
    import triton.backends
    from deepseek_trainer.kernels import rms_norm
    from torch.utils import _triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    target = GPUTarget("cuda", capability, 32)
    stand_in: Any = SimpleNamespace(
        get_current_target=lambda: target, get_current_device=lambda: capability, get_current_stream=lambda device: 0
    )
    driver.set_active(stand_in)
    none: Any = SimpleNamespace(compiler=SimpleNamespace(supports_target=lambda target: False))
    triton.backends.backends["cpu"] = none  # has torch take it that there is something that Triton can run on
    for known in (_triton.has_triton_package, _triton.has_triton):
        known.cache_clear()
    made: list[Any] = []
    kernels = (rms_norm._forward, rms_norm._backward)
    for kernel in kernels:
        run = type(kernel).run
        kernel.run = lambda *given, kernel=kernel, run=run, warmup, **named: made.append(
            run(kernel, *given, warmup=True, **named)
        )
    yield made
    for kernel in kernels:
        del kernel.run


def code() -> None:
    """They compile for an A100 and an H100, without atomics, loading 16 bytes at once."""
    for capability in (80, 90):
        with no_gpu(capability) as made:
            for rows, size, dtype in CODE:
                before = len(made)
                computed(*(some(*shape, dtype=dtype) for shape in ((rows, size), (size,), (rows, size))))
                assert len(made) == before + 2, "one kernel forward, one backward"
                for kernel in made[before:]:
                    assert kernel.asm["cubin"].startswith(b"\x7fELF")
                    assert f".target sm_{capability}" in kernel.asm["ptx"]
                    assert not any(atomic in kernel.asm["ptx"] for atomic in ("atom.", "red.global"))
                    assert size == 24 or "ld.global.v4" in kernel.asm["ptx"]


def graphs() -> None:
    """torch.compile takes it as it is into one graph, with a kernel forward and one backward."""
    from deepseek_trainer.kernels.rms_norm import rms_norm
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    found: list[list[str]] = []

    def note(graph: Any, inputs: Any) -> Any:
        """Answers with memory of the right shapes, as nothing can be computed."""
        targets = [node for node in graph.graph.nodes if "triton_kernel" in str(node.target)]
        found.append([str(sorted(node.kwargs["kwargs"])) for node in targets])
        results = [None if node is None else node.meta["val"] for node in graph.graph.output_node().args[0]]
        return make_boxed_func(
            lambda *_: [None if one is None else torch.empty(one.shape, dtype=one.dtype) for one in results]
        )

    module = LlamaRMSNorm(64)
    norm._replace([module], rms_norm)
    backend = aot_autograd(fw_compiler=note, bw_compiler=note)
    compiled = torch.compile(lambda x: module(2 * x), backend=backend, fullgraph=True)
    with no_gpu(90):
        torch.autograd.backward(compiled(some(4, 6, 64).requires_grad_()).sum())
    assert [len(kernels) for kernels in found] == [1, 1], found
    assert "dx_at" in found[1][0], "the second is of the backward pass"


if __name__ == "__main__":
    sys.path.append(sys.argv[2])
    globals()[sys.argv[1]]()
