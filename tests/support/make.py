"""Builders of jobs, pods and reports: a test names what matters to it, the rest is a plausible default."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.decide.effective import effective
from deepseek_operator.decide.types import Claim, Observation, Pod, Progress

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
UID = "0b5d6c1e-7f0a-4a52-9d0e-3f1f6d6b9a10"

TRAINER: dict[str, Any] = {"model": {"preset": "tiny"}, "training": {"steps": 100, "globalBatchSize": 16}}


def later(seconds: float) -> datetime:
    """A moment this many seconds after START."""
    return START + timedelta(seconds=seconds)


def make_manifest(
    *,
    name: str = "demo",
    replicas: int = 3,
    max_restarts: int = 3,
    spec: dict[str, Any] | None = None,
    workers: dict[str, Any] | None = None,
    checkpoint: bool = True,
) -> dict[str, Any]:
    """A DeepSeekJob as the API server returns it, without status."""
    full: dict[str, Any] = {
        "workers": {"replicas": replicas, "image": "ghcr.io/example/trainer:1.0"} | (workers or {}),
        "trainer": TRAINER,
        "data": {"corpus": "chitchat"},
        "recovery": {"budgets": {"application": max_restarts}},
    }
    if checkpoint:
        full["checkpoint"] = {"volume": {"claimName": "ckpt"}, "interval": {"steps": 20}}
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": name, "namespace": "team-a", "uid": UID, "generation": 1},
        "spec": full | (spec or {}),
    }


def make_script_manifest(**workers: Any) -> dict[str, Any]:
    """A job that runs a user's script."""
    manifest = make_manifest(workers=workers, checkpoint=False)
    manifest["spec"] = {
        "workers": manifest["spec"]["workers"],
        "entrypoint": {"script": "/app/train.py", "args": ["--epochs", "2"]},
    }
    return manifest


def make_job(status: Status | None = None, **options: Any) -> DeepSeekJob:
    """A parsed job; options are those of make_manifest."""
    job = DeepSeekJob.model_validate(make_manifest(**options))
    return job if status is None else job.model_copy(update={"status": status})


def make_pod(slot: int = 0, incarnation: int = 0, *, job: str = "demo", **fields: Any) -> Pod:
    """A running, ready worker pod."""
    name = f"{job}-worker-{slot}-{incarnation}"
    running: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "slot": slot,
        "incarnation": incarnation,
        "phase": "Running",
        "ready": True,
        "ip": f"10.0.{incarnation}.{slot + 1}",
        "node": f"node-{slot % 2}",
    }
    ended = {"ready": False} if fields.get("phase", "Running") != "Running" else {}
    return Pod(**(running | ended | fields))


def make_claim(name: str = "ckpt", *modes: str, **fields: Any) -> Claim:
    """A claim that somebody made, bound; without modes one for any number of nodes."""
    able = modes or ("ReadWriteMany",)
    found: dict[str, Any] = {"uid": f"uid-{name}", "version": "1", "asked_modes": able, "access_modes": able}
    return Claim(name, **(found | {"size": "10Gi"} | fields))


def make_last_words(generation: int = 1, *, message: str = "", step: int = 100, rank: int = 0, **fields: Any) -> str:
    """A termination message as the agent writes it; with a failure if there is a message."""
    wire: dict[str, Any] = {
        "version": 1,
        "generation": generation,
        "attempt": generation,
        "phase": "training" if message else "finished",
        "step": step,
        "totalSteps": 100,
        "loss": 3.25,
    }
    if message:
        wire["failure"] = {"rank": rank, "exitCode": 1, "message": message}
    return json.dumps(wire | fields)


def make_progress(generation: int = 1, *, step: int | None = 40, **fields: Any) -> Progress:
    """A report from the midst of training."""
    training: dict[str, Any] = {
        "generation": generation,
        "attempt": generation,
        "phase": "training",
        "step": step,
        "total_steps": 100,
        "loss": 3.5,
    }
    return Progress(**(training | fields))


def make_checkpoint(step: int = 20) -> dict[str, Any]:
    """A checkpoint as a report tells it."""
    return {
        "step": step,
        "time": "2026-03-01T12:01:00Z",
        "path": f"/checkpoints/step-{step:08d}",
        "bytes": 1024,
        "seconds": 0.5,
    }


def observe(job: DeepSeekJob, *pods: Pod, after_s: float = 0.0, **fields: Any) -> Observation:
    """An observation of a job without profile, whose Service exists."""
    seen: dict[str, Any] = {"now": later(after_s), "job": effective(job).job, "pods": pods, "service_exists": True}
    return Observation(**(seen | fields))
