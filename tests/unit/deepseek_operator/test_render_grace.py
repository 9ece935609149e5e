"""The grace period of worker pods follows the measured save, and the agent's share of it follows the grace period."""

from __future__ import annotations

import pytest
from deepseek_operator.api.v1alpha1 import CheckpointStatus, Status
from deepseek_operator.render import worker_pod
from support.make import make_checkpoint, make_job


@pytest.mark.parametrize(
    ("saved_in_s", "wanted_s", "grace_s", "saving_s"),
    [
        (None, None, 30, 25),
        (0.5, None, 30, 25),
        (20.1, None, 76, 71),
        (10_000.0, None, 600, 595),
        (20.1, 45, 45, 40),
        (None, 3600, 3600, 3595),
        (None, 8, 8, 6),
        (None, 1, 1, 1),
    ],
)
def test_grace_period(saved_in_s: float | None, wanted_s: int | None, grace_s: int, saving_s: int) -> None:
    saved = None if saved_in_s is None else CheckpointStatus(**make_checkpoint() | {"seconds": saved_in_s})
    workers = {} if wanted_s is None else {"terminationGracePeriodSeconds": wanted_s}
    pod = worker_pod(make_job(Status(checkpoint=saved), workers=workers), 0, 0, None)["spec"]
    told = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert pod["terminationGracePeriodSeconds"] == grace_s
    assert told["DEEPSEEKJOB_TERMINATION_GRACE_S"] == str(saving_s)
