"""I8: the gradient of a step is that of its batch in one process, however unevenly the ranks share it.

The loop's own step (`gradient.accumulate`), fed by its own feed, for each rank of a world in turn; what is played is the
mean over the ranks that FSDP takes, and a model that is small and knows no shards.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import samples
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.positions import PositionFeed
from deepseek_trainer.data.samples import Samples
from deepseek_trainer.distributed.context import WHOLE
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.gradient import accumulate
from deepseek_trainer.progress import Progress
from deepseek_trainer.pulse import PulseWriter
from deepseek_trainer.report import Reporter
from deepseek_trainer.start import Run
from numpy.typing import NDArray
from support.datajob import PlayedWorld
from support.stores import store_of
from torch import nn

pytestmark = [pytest.mark.training]

CPU = torch.device("cpu")
LENGTHS = [3, 17, 40, 5, 9, 31, 2, 12, 26, 8, 16, 33, 7, 21, 4, 11, 19, 28] * 3
BATCHINGS: list[dict[str, Any]] = [
    {"mode": "Stream"},
    {"mode": "Stream", "documentMask": True},
    {"mode": "Packed"},
    {"mode": "Bucketed", "tokensPerMicroBatch": 48},
]


class Tiny(nn.Module):
    """Of each token and its position the next one."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, 12), nn.Embedding(64, 12)
        self.out = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, vocabulary))

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None, use_cache: bool) -> Any:
        places = torch.arange(input_ids.shape[1]).expand_as(input_ids) if position_ids is None else position_ids
        return SimpleNamespace(logits=self.out(self.tokens(input_ids) + self.places(places)))

    def set_requires_gradient_sync(self, last: bool) -> None:
        """FSDP's; here each rank's gradient stays its own."""

    def set_reshard_after_backward(self, last: bool) -> None:
        """FSDP's."""


def _config(batch: int, batching: dict[str, Any] | None = None) -> RunConfig:
    training = {"steps": 2, "sequenceLength": 16, "microBatchSize": 3, "globalBatchSize": batch}
    return RunConfig.model_validate(
        {
            "job": "j",
            "trainer": {"training": training},
            "data": {"corpus": "gcide", "batching": batching or {}},
            "dataCache": "/nowhere",
        }
    )


class Noted:
    """What an audit is told."""

    def record(self, step: int, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> None:
        self.samples = samples.tolist()


def shared_out(data: Samples, batch: int, ranks: int, dtype: torch.dtype) -> tuple[torch.Tensor, float, list[int]]:
    """The gradient of a step, its loss, and what was trained, on so many ranks."""
    config = _config(batch)
    ledger = Ledger("f" * 64, data.training, data.layout, 3, batch, step=1)
    total, loss, trained = torch.zeros(()), 0.0, []
    for rank in range(ranks):
        torch.manual_seed(0)
        model = Tiny(data.store.info.vocab_size).to(dtype)
        pulse = PulseWriter.from_environment({})
        run = SimpleNamespace(
            world=PlayedWorld(rank, rank, ranks, CPU, control=cast(Any, None)),
            progress=Progress(Reporter.from_environment({}), pulse),
            waits=Waits(pulse, CPU),
            config=config,
            update=SimpleNamespace(scale=1.0),
            routing=None,
            context=WHOLE,
            pipeline=None,
            model=model,
        )
        audit = Noted()
        feed = PositionFeed(config, run.world, data, ledger, run.waits, cast(AuditLog, audit))
        with closing(feed):
            step = feed.next(lambda: False)
            mine = accumulate(cast(Run, run), feed, step)
            feed.trained()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        total = total + torch.cat([gradient.flatten() for gradient in gradients]) / ranks
        loss += mine
        trained += audit.samples
    return total, loss, trained


@pytest.fixture(params=BATCHINGS, ids=lambda batching: "-".join(map(str, batching.values())))
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Samples:
    """Chat-like: only every third token or so is to be predicted, so samples differ in their number of targets."""
    config = _config(1, request.param)
    wanted = np.flatnonzero(np.random.default_rng(0).random(sum(LENGTHS)) < 0.35).tolist()
    return samples.of(config, store_of(LENGTHS, folder=tmp_path, loss_on=wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("batch", [2, 7, 32])
def test_the_gradient_is_that_of_one_process(data: Samples, batch: int, dtype: torch.dtype) -> None:
    alone, loss, trained = shared_out(data, batch, 1, dtype)
    assert alone.abs().max() > 1e-3, "there is something to compare"
    order = Ledger("f" * 64, data.training, data.layout, 3, batch, step=1).batch().samples
    assert sorted(trained) == sorted(order.tolist())
    for ranks in range(2, 10):
        gradient, same, places = shared_out(data, batch, ranks, dtype)
        assert sorted(places) == sorted(trained), f"{ranks} ranks trained other samples"
        assert same == pytest.approx(loss, rel=1e-6)
        assert (gradient - alone).abs().max() <= 1e-6 * max(1.0, float(alone.abs().max())), f"{ranks} ranks"


def test_a_mean_over_means_is_another_gradient(data: Samples) -> None:
    """What is usual, and what would not be noticed if the ranks' shares were alike."""
    alone, _, _ = shared_out(data, 7, 1, torch.float64)
    ledger = Ledger("f" * 64, data.training, data.layout, 3, 7, step=1)
    batch = ledger.batch().samples
    torch.manual_seed(0)
    model = Tiny(data.store.info.vocab_size).double()
    for rank in range(4):
        places = np.concatenate(data.micro_batches(batch, rank=rank, world_size=4))
        if len(places):
            made = data.collate(batch[places])
            logits = model(made.inputs, made.positions, use_cache=False).logits
            nn.functional.cross_entropy(logits.flatten(0, 1), made.labels.flatten()).div(4).backward()
    means = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert (means - alone).abs().max() > 1e-4
