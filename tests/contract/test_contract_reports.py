"""What the agent says at /progress and in its last words, the operator understands, whole."""

from __future__ import annotations

import dataclasses
from typing import get_args

from deepseek_operator.api import names
from deepseek_operator.decide.report import HANG_REASONS, HANGS_MAX, parse_report
from deepseek_operator.decide.types import Progress, SettledHang
from deepseek_trainer import contract

CHECKPOINT = contract.CheckpointInfo(
    step=125,
    time="2026-03-01T12:03:00Z",
    path="/checkpoints/step-00000125",
    bytes=6_000_000,
    seconds=0.4,
    blocked_seconds=0.1,
    interval_seconds=90.0,
    verified=True,
)
CHECKPOINT_FAILURE = contract.CheckpointFailure(
    step=130, time="2026-03-01T12:03:30Z", failures=2, message="No space left on device"
)
HANG = contract.Hang(
    generation=3,
    round=0,
    reason="frozen",
    rank=3,
    pod="demo-worker-1-0",
    node="gpu-1",
    step=139,
    seconds=61.5,
    stacks="/c/hangs",
)
FULL = contract.Progress(
    job="demo",
    pod="demo-worker-0-0",
    generation=3,
    attempt=2,
    round=1,
    node_rank=0,
    process_restarts=4,
    time="2026-03-01T12:04:00Z",
    phase="training",
    step=140,
    total_steps=200,
    epoch=1,
    position=4480,
    chain="0f" * 32,
    loss=5.021,
    validation_loss=5.2,
    tokens_per_second=4096.5,
    eta_seconds=72.0,
    checkpoint=CHECKPOINT,
    checkpoint_failure=CHECKPOINT_FAILURE,
    resumed_step=100,
    resumed_from="/checkpoints/step-00000100",
    restored_bytes=contract.RestoredBytes(memory=3, peer=2, volume=1),
    passed_over=("step-00000120: training failed soon in 2 starts from it",),
    unigram_entropy=6.5,
    goodput=contract.Goodput(productive=10, startup=1, checkpoint=2, recovery=3, stalled=4, waiting=5),
    hangs=(HANG,),
    experts=contract.Experts(max_violation=0.5, shares=(1.5, 0.5), dropped=0.0),
    data=contract.Data(tokens=10, documents=2, quarantined=1, examples=("a.jsonl, line 2: not JSON",)),
    failure=contract.Failure(
        kind="preflight", nodes=("gpu-1", "gpu-2"), rank=1, exit_code=1, signal="SIGKILL", message="RuntimeError: no"
    ),
    stragglers=(
        contract.Straggler(
            rank=3, pod="demo-worker-3-0", node="gpu-3", busy_seconds=0.9, median_seconds=0.6, step_seconds=1.25
        ),
        contract.Straggler(rank=4, pod="demo-worker-4-0", busy_seconds=0.8, median_seconds=0.6, step_seconds=1.25),
    ),
)


def _wire(progress: contract.Progress) -> str:
    return progress.model_dump_json(by_alias=True, exclude_none=True)


def test_every_field_arrives() -> None:
    seen = parse_report(_wire(FULL))
    assert seen is not None
    said = FULL.model_dump(by_alias=False)
    nested = {"checkpoint", "checkpoint_failure", "goodput", "failure", "hangs", "stragglers", "data"}
    for field in dataclasses.fields(Progress):
        if field.name not in nested:
            assert getattr(seen, field.name) == said[field.name], field.name
    assert seen.checkpoint == said["checkpoint"]
    assert seen.checkpoint_failure is not None
    assert dataclasses.asdict(seen.checkpoint_failure) == said["checkpoint_failure"]
    assert seen.goodput == said["goodput"]
    assert seen.data is not None
    assert dataclasses.asdict(seen.data) == said["data"]
    assert seen.hangs == (SettledHang(**HANG.model_dump(exclude={"node"})),)
    assert [dataclasses.asdict(slow) for slow in seen.stragglers or ()] == list(said["stragglers"])
    assert seen.failure == {
        "kind": "preflight",
        "nodes": ["gpu-1", "gpu-2"],
        "rank": 1,
        "exitCode": 1,
        "signal": "SIGKILL",
        "message": "RuntimeError: no",
    }


def test_the_operator_reads_no_field_that_the_agent_never_writes() -> None:
    assert {field.name for field in dataclasses.fields(Progress)} <= set(contract.Progress.model_fields)


def test_of_a_hang_the_operator_reads_all_but_the_node_which_it_knows_better() -> None:
    assert {field.name for field in dataclasses.fields(SettledHang)} | {"node"} == set(contract.Hang.model_fields)
    assert get_args(contract.HangReason) == tuple(sorted(HANG_REASONS, key=get_args(contract.HangReason).index))
    assert HANGS_MAX == contract.HANGS_MAX


def test_an_agent_that_knows_nothing_yet_is_understood() -> None:
    seen = parse_report(_wire(contract.Progress()))
    assert seen == Progress(phase="starting")


def test_nulls_are_no_values() -> None:
    assert parse_report(contract.Progress().model_dump_json(by_alias=True)) == Progress(phase="starting")


def test_both_sides_bound_the_slow_ranks_alike() -> None:
    assert contract.STRAGGLERS_MAX == names.STRAGGLERS_MAX


def test_both_sides_bound_what_is_said_of_bad_records_alike() -> None:
    assert (contract.QUARANTINED_SHOWN, contract.QUARANTINED_LENGTH) == (
        names.QUARANTINED_SHOWN,
        names.QUARANTINED_LENGTH,
    )


def test_a_full_report_fits_the_termination_log() -> None:
    said = FULL.model_copy(update={"stragglers": None})  # which last words leave out
    longest = said.model_copy(update={"failure": contract.Failure(rank=1, exit_code=1, message="x" * 1024)})
    assert len(_wire(longest)) < contract.TERMINATION_LOG_MAX_BYTES
