"""kubectl as the tests' hand: what a user types is what is tested."""

from __future__ import annotations

import atexit
import functools
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.api import JOBS, PODS, Api


class KubectlError(AssertionError):
    """kubectl ended with another status than 0; the message has what it said."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs one kubectl binary against one cluster, in one namespace."""

    binary: Path | str
    kubeconfig: Path
    namespace: str = "default"

    def run(self, *args: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        """Standard output of `kubectl ARGS`.

        Raises:
            KubectlError: the exit status was not 0.
        """
        command = [str(self.binary), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *args: str) -> Any:
        """Parsed output of `kubectl ARGS -o json`."""
        return json.loads(self.run(*args, "-o", "json"))

    def items(self, *args: str) -> list[dict[str, Any]]:
        """The items of `kubectl get ARGS -o json`."""
        items: list[dict[str, Any]] = self.json("get", *args)["items"]
        return items

    def status(self, job: str) -> dict[str, Any]:
        """The job's status; empty before it has one. To be asked often, and so without a process: kubectl takes a
        fifth of a second of CPU time for it, and what is measured would be that.
        """
        found: dict[str, Any] = _eyes(self.kubeconfig).get(f"{JOBS.format(ns=self.namespace)}/{job}").get("status", {})
        return found

    def pods(self, job: str = "") -> list[dict[str, Any]]:
        """The pods of the namespace, or of one job of it; as `status`."""
        selector = f"?labelSelector=training.deepseekjob.dev/job-name={job}" if job else ""
        return _eyes(self.kubeconfig).items(PODS.format(ns=self.namespace) + selector)

    def node(self, name: str) -> dict[str, Any]:
        """A node; as `status`."""
        found: dict[str, Any] = _eyes(self.kubeconfig).get(f"/api/v1/nodes/{name}")
        return found

    def row(self, job: str, *, wide: bool = False) -> dict[str, str]:
        """One row of `kubectl get dsj` by its headings; columns are cut where the headings start."""
        head, row = self.run("get", "dsj", job, *(("-o", "wide") if wide else ())).splitlines()[:2]
        starts = [m.start() for m in re.finditer(r"\S+", head)]
        ends = [*starts[1:], None]
        return {head[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply` of the objects."""
        self.run("apply", "-f", "-", stdin=yaml.safe_dump_all([dict(o) for o in objects]))


@functools.cache
def _eyes(kubeconfig: Path) -> Api:
    """One for the test run: its connections are kept."""
    made = Api(kubeconfig)
    atexit.register(made.close)
    return made
