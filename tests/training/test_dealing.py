"""One of two ranks is slow and a batch is dealt by pace: the slow one takes less, and what is trained on is the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import costly_rows
from support.procs import start_training
from support.runs import losses, report

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]

_DEALT = re.compile(r"dealing by pace: samples of each rank: (\d+),(\d+)")


def test_slow_rank_takes_less_of_the_same_batches(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A rank's own work is the mean of the steps before shares are first agreed on: seconds more than a stall of the other."""
    chosen = config(steps=70, globalBatchSize=16, microBatchSize=16)
    del chosen["checkpoint"]
    alone = start_training(chosen, world_size=1, folder=tmp_path / "alone")
    chosen["data"]["batching"] = {"dealing": "ByPace"}
    both = start_training(
        chosen,
        world_size=2,
        folder=tmp_path / "both",
        environ={costly_rows.ROW_S: "0,0.02"},
        module=costly_rows.__name__,
    )
    ended = both.wait(deadline_s=200)

    assert [rank.exit_code for rank in ended] == [0, 0], ended[0].output
    dealt = [(int(fast), int(slow)) for fast, slow in _DEALT.findall(ended[0].output)]
    assert dealt, ended[0].output
    assert dealt[0][0] > dealt[0][1]
    assert all(sum(shares) == 16 for shares in dealt)
    expected = losses(alone.wait()[0].output)
    assert losses(ended[0].output) == pytest.approx(expected, rel=1e-3)
    assert report(tmp_path / "both")["chain"] == report(tmp_path / "alone")["chain"]
