"""The CRD on a test's API server, from the committed file, as a user installs it."""

from __future__ import annotations

from pathlib import Path

from deepseek_operator.api.names import PLURAL
from support.eventually import eventually
from support.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds" / "training.deepseekjob.dev_deepseekjobs.yaml"
CRD_NAME = "deepseekjobs.training.deepseekjob.dev"


def install(kubectl: Kubectl) -> None:
    """Applies the CRD and waits until the API server serves it."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE))
    wait_until_served(kubectl)


def wait_until_served(kubectl: Kubectl) -> None:
    """Returns once jobs can be listed. `kubectl wait` fails on an object that has no conditions yet."""
    eventually(lambda: kubectl.run("get", PLURAL, "-A", "-o", "name") is not None, deadline_s=30, what="CRD is served")
