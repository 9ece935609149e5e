"""The CRD on a test's API server, from the committed file, as a user installs it."""

from __future__ import annotations

from pathlib import Path

from support.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds" / "training.deepseekjob.dev_deepseekjobs.yaml"
CRD_NAME = "deepseekjobs.training.deepseekjob.dev"


def install(kubectl: Kubectl) -> None:
    """Applies the CRD and waits until the API server serves it."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE))
    kubectl.run("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
