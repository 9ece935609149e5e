"""The work folder of a local run: where each thing of a cluster is on this machine.

job.json                    the job with its status, as the API server would have it
claims/<claim>/             a PersistentVolumeClaim
pods/<pod>/volumes/<name>/  an emptyDir
pods/<pod>/config/          downward-API files
pods/<pod>/run/             the agent's run folder
pods/<pod>/termination-log
logs/<pod>.log              a link to the pod's output
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """Paths under one work folder; `given` has folders of the user's choice by name of the claim, ConfigMap or Secret, or of the volume."""

    root: Path
    given: Mapping[str, Path] = field(default_factory=dict)

    @property
    def job_file(self) -> Path:
        return self.root / "job.json"

    @property
    def torchx_logs(self) -> Path:
        return self.root / "torchx"

    def claim(self, name: str) -> Path:
        return self.given.get(name, self.root / "claims" / name)

    def pod(self, name: str) -> Path:
        return self.root / "pods" / name

    def run_dir(self, pod: str) -> Path:
        return self.pod(pod) / "run"

    def termination_log(self, pod: str) -> Path:
        return self.pod(pod) / "termination-log"

    def log(self, pod: str) -> Path:
        return self.root / "logs" / f"{pod}.log"


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the whole old or the whole new text, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
