"""Random faults, one after the other, on real training processes under a real operator and API server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import corpora
from deepseek_trainer.data.audit.proof import Verdict, prove
from deepseek_trainer.data.prepare import prepare
from support import exactly_once, zygote
from support.api import Api, Jobs
from support.operators import OperatorProcess
from support.process_target import CLAIM, ProcessTarget, job_spec
from support.processkubelet import ProcessKubelet
from support.soak import Soak, table

SECONDS = float(os.environ.get("DEEPSEEKJOB_SOAK_S", "300"))
FAULTS = int(os.environ.get("DEEPSEEKJOB_SOAK_FAULTS", "200"))
SEED = int(os.environ.get("DEEPSEEKJOB_SOAK_SEED", "5"))
STEPS = 150
pytestmark = [pytest.mark.cluster, pytest.mark.training, pytest.mark.timeout(int(SECONDS) + 900)]


@pytest.fixture
def nodes(api: Api, jobs: Jobs, tmp_path: Path) -> Iterator[ProcessKubelet]:
    """Two nodes whose pods are processes."""
    if os.environ.get("KUBECONFIG"):
        pytest.skip("the soak plays the nodes itself; $KUBECONFIG's cluster has its own")
    with ProcessKubelet(api, jobs.namespace, tmp_path / "nodes", zygote.shared()) as kubelet:
        yield kubelet


@pytest.fixture(scope="module")
def stores() -> Path:
    """Prepared data, kept in the user's cache, so that the tokenizer is trained once a machine."""
    folder = corpora.cache(os.environ).with_name("stores")
    prepare(config(folder), os.environ)
    return folder


def config(stores: Path) -> RunConfig:
    """What the trainer is told about the data, but for the folders."""
    spec = job_spec(STEPS)
    folders = {"dataCache": str(stores), "checkpoint": {"directory": "/nowhere"}}
    told = {"job": "soak", "trainer": spec["trainer"], "data": spec["data"], **folders}
    return RunConfig.model_validate(told)


def test_jobs_survive_random_faults(
    jobs: Jobs, nodes: ProcessKubelet, stores: Path, start_operator: Callable[..., OperatorProcess]
) -> None:
    def operator() -> OperatorProcess:
        return start_operator(leader_election=False, progress_interval_s=0.5)

    wanted = exactly_once.undisturbed(exactly_once.start_of(config(stores), os.environ), STEPS)

    def check(name: str, status: dict[str, Any]) -> None:
        logs = nodes.logs(f"{name}-worker-")
        folder = nodes.claim(CLAIM) / name
        exactly_once.require(wanted, status=status, folder=folder, logs=logs)
        proof = prove(folder)
        assert (proof.verdict, proof.audited) == (Verdict.PROVEN, STEPS), proof
        print(
            f"{name}: {STEPS} steps, each sample once, {proof.counted} of {proof.starts} starts count; restarts {status['restarts']}, {len(logs)} pods"
        )

    target = ProcessTarget(jobs, nodes, operator, steps=STEPS, stores=stores, check=check)
    soak = Soak(target, Random(SEED), time.monotonic, time.sleep)
    try:
        soak.run(faults=FAULTS, seconds=SECONDS)
    finally:
        print(f"seed {SEED}\n{table(soak.outcomes)}")
    assert soak.outcomes, "nothing was disturbed"
