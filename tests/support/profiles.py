"""DeepSeekProfiles on a test's API server, and jobs that name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from support.api import Api, Jobs
from support.eventually import eventually

PATH = "/apis/training.deepseekjob.dev/v1alpha1/deepseekprofiles"
IMAGE = "example.org/pool:1"
SOON_S = 12
"""A mended profile is noticed within 10 s; the rest is the test's own looking."""


class Profiles:
    """Profiles of one test; they belong to the cluster, so each has a name of its own."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.name = f"pool-{uuid4().hex[:8]}"

    def create(self, **spec: Any) -> Any:
        body = {
            "apiVersion": "training.deepseekjob.dev/v1alpha1",
            "kind": "DeepSeekProfile",
            "metadata": {"name": self.name},
            "spec": {"workers": {"image": IMAGE}} | spec,
        }
        return self._api.create(PATH, body)

    def edit(self, **spec: Any) -> None:
        self._api.merge(f"{PATH}/{self.name}", {"spec": spec})

    def delete(self) -> None:
        self._api.delete(f"{PATH}/{self.name}")


def submit(jobs: Jobs, profiles: Profiles, name: str, workers: dict[str, Any] | None = None, **spec: Any) -> None:
    """A job of two workers that leaves the image to its profile."""
    jobs.submit(name, profile=profiles.name, workers={"replicas": 2} | (workers or {}), **spec)


def containers(jobs: Jobs, name: str) -> list[dict[str, Any]]:
    return [pod["spec"]["containers"][0] for pod in jobs.pods(name)]


def reason(jobs: Jobs, name: str) -> str:
    return str(jobs.status(name).get("reason"))


def ready_message(jobs: Jobs, name: str) -> str:
    conditions = {c["type"]: c for c in jobs.status(name).get("conditions", [])}
    return str(conditions.get("PodsReady", {}).get("message", ""))


def wait(jobs: Jobs, name: str, what: str, probe: Callable[[], Any], deadline_s: float = 30) -> None:
    eventually(probe, deadline_s=deadline_s, what=what, describe=lambda: jobs.describe(name))
