"""Reports are of unknown origin: what is wrong is left out, and nothing gets through to a terminal or the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from deepseek_operator.api.names import STRAGGLERS_MAX
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.report import parse_report, report_from
from deepseek_operator.decide.training import progress_fields
from deepseek_operator.decide.types import Data, Progress, Straggler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.make import make_checkpoint

WHOLE: dict[str, Any] = {
    "version": 1,
    "job": "demo",
    "pod": "demo-worker-0-0",
    "generation": 2,
    "attempt": 2,
    "phase": "training",
    "step": 40,
    "totalSteps": 100,
    "epoch": 1,
    "position": 640,
    "chain": "ab12",
    "loss": 3.5,
    "validationLoss": 3.75,
    "unigramEntropy": 6.25,
    "tokensPerSecond": 1234.5,
    "etaSeconds": 61.0,
    "checkpoint": make_checkpoint(),
    "resumedStep": 20,
    "resumedFrom": "/checkpoints/step-00000020",
    "processRestarts": 1,
    "goodput": {"productive": 10.0, "startup": 1.0},
    "data": {
        "tokens": 1000,
        "documents": 10,
        "quarantined": 8,
        "examples": ["a.jsonl, line 2: not JSON", 7, "two\nlines\x1b[0m", "", "x" * 500, "not among the first five"],
    },
    "failure": {
        "kind": "preflight",
        "nodes": ["gpu-1", "gpu-2.example.org", "no node", 7],
        "rank": 1,
        "exitCode": -9,
        "signal": "SIGKILL",
        "message": "killed",
    },
    "stragglers": [
        {
            "rank": 3,
            "pod": "demo-worker-3-0",
            "node": "gpu-3",
            "busySeconds": 0.9,
            "medianSeconds": 0.6,
            "stepSeconds": 1,
        },
        {"rank": 4, "pod": "demo-worker-4-0", "busySeconds": 0.9, "medianSeconds": 0.6, "stepSeconds": 1, "more": 7},
        {"rank": -5, "pod": "demo-worker-5-0", "busySeconds": 0.9, "medianSeconds": 0.6, "stepSeconds": 1},
        {"rank": 6, "pod": "two\nlines", "busySeconds": 0.9, "medianSeconds": 0.6, "stepSeconds": 1},
        {"rank": 7, "pod": "demo-worker-7-0", "busySeconds": float("inf"), "medianSeconds": 0.6, "stepSeconds": 1},
        {"rank": 8, "pod": "demo-worker-8-0", "medianSeconds": 0.6, "stepSeconds": 1},
        "rank 9",
    ],
    "fieldOfTomorrow": [1, 2],
}


def test_whole_report_is_read() -> None:
    assert parse_report(json.dumps(WHOLE)) == Progress(
        generation=2,
        attempt=2,
        phase="training",
        step=40,
        total_steps=100,
        epoch=1,
        position=640,
        chain="ab12",
        loss=3.5,
        validation_loss=3.75,
        unigram_entropy=6.25,
        tokens_per_second=1234.5,
        eta_seconds=61.0,
        checkpoint=make_checkpoint(),
        resumed_step=20,
        resumed_from="/checkpoints/step-00000020",
        process_restarts=1,
        goodput={"productive": 10.0, "startup": 1.0, "checkpoint": 0, "recovery": 0, "stalled": 0, "waiting": 0},
        failure={
            "kind": "preflight",
            "nodes": ["gpu-1", "gpu-2.example.org"],
            "rank": 1,
            "exitCode": -9,
            "signal": "SIGKILL",
            "message": "killed",
        },
        data=Data(1000, 10, 8, ("a.jsonl, line 2: not JSON", "two lines[0m", "x" * 160)),
        stragglers=(
            Straggler(3, "demo-worker-3-0", "gpu-3", 0.9, 0.6, 1.0),
            Straggler(4, "demo-worker-4-0", "", 0.9, 0.6, 1.0),
        ),
    )


def test_of_slow_ranks_a_bounded_number_is_read() -> None:
    many = [{**WHOLE["stragglers"][0], "rank": rank} for rank in range(5000)]
    assert len(report_from({"stragglers": many}).stragglers or ()) == STRAGGLERS_MAX
    assert report_from({"stragglers": []}).stragglers == ()
    assert report_from({"stragglers": "all"}).stragglers is None


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"Traceback (most recent call last)",
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b"{" * 100,
        b"[" * 60_000,
        b'{"step": ' + b"9" * 5000 + b"}",
        b'{"x": "' + b"y" * 65_536 + b'"}',
    ],
)
def test_what_is_no_report_is_none(document: bytes) -> None:
    assert parse_report(document) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", -1),
        ("step", 1.5),
        ("step", True),
        ("step", "40"),
        ("step", 2**63),
        ("loss", float("nan")),
        ("loss", float("inf")),
        ("loss", -0.5),
        ("loss", 10**400),
        ("loss", "3"),
        ("etaSeconds", 1e300),
        ("chain", 7),
        ("checkpoint", {"step": 1}),
        ("checkpoint", make_checkpoint() | {"time": "yesterday"}),
        ("checkpoint", make_checkpoint() | {"time": "2026-03-01T12:00:00"}),
        ("checkpoint", make_checkpoint() | {"bytes": -1}),
        ("goodput", 3),
        ("data", 3),
        ("data", {"tokens": 1, "documents": 1}),
        ("data", {"tokens": 1, "documents": 1, "quarantined": -1}),
        ("failure", "boom"),
    ],
)
def test_wrong_field_is_left_out_and_the_others_count(field: str, value: Any) -> None:
    names = {"etaSeconds": "eta_seconds"}
    report = report_from({"generation": 1, "epoch": 2} | {field: value})
    assert getattr(report, names.get(field, field)) is None
    assert (report.generation, report.epoch) == (1, 2)


def test_nan_in_the_document_is_left_out() -> None:
    report = parse_report('{"loss": NaN, "validationLoss": -Infinity, "step": 3}')
    assert report is not None
    assert (report.loss, report.validation_loss, report.step) == (None, None, 3)


@pytest.mark.parametrize("phase", ["", "dancing", 3, None, ["training"]])
def test_unknown_phase_is_empty(phase: Any) -> None:
    assert report_from({"phase": phase}).phase == ""


def test_text_is_stripped_of_control_characters_and_cut() -> None:
    report = report_from({"chain": "a" * 500, "failure": {"message": "\x1b]0;evil\x07line\n" + "x" * 9999}})
    assert report.chain == "a" * 128
    assert report.failure is not None
    assert "\x1b" not in report.failure["message"]
    assert "\x07" not in report.failure["message"]
    assert len(report.failure["message"]) <= 1024


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("aé\x1b\n", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WHOLE, "rank", "time"]), inner),
    max_leaves=20,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(list(WHOLE)), JSON))
def test_any_object_makes_a_status_that_the_api_can_take(found: dict[str, Any]) -> None:
    training = progress_fields(report_from(found))
    wire = Status(training=training).model_dump_json(by_alias=True)
    json.loads(wire, parse_constant=lambda constant: pytest.fail(f"{constant} in {wire}"))
    assert Status.model_validate_json(wire).training == training


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (None, []),
        ("gpu-1", []),
        ([], []),
        (["gpu-1", None, 3, "-x", "x/y", "X", "a" * 254, "gpu-2"], ["gpu-1", "gpu-2"]),
        ([f"n{i}" for i in range(99)], [f"n{i}" for i in range(16)]),
    ],
)
def test_nodes_of_a_preflight_are_names_or_nothing(nodes: Any, expected: list[str]) -> None:
    report = report_from({"failure": {"kind": "preflight", "nodes": nodes}})
    assert report.failure is not None
    assert report.failure["nodes"] == expected
