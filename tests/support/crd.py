"""The CRDs on a test's API server, from the committed files, as a user installs them."""

from __future__ import annotations

from pathlib import Path

from deepseek_operator.api.names import PLURAL, PROFILE_PLURAL
from support.eventually import eventually
from support.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds" / "training.deepseekjob.dev_deepseekjobs.yaml"
PROFILE_CRD_FILE = ROOT / "crds" / "training.deepseekjob.dev_deepseekprofiles.yaml"
CRD_NAME = "deepseekjobs.training.deepseekjob.dev"
PROFILE_CRD_NAME = "deepseekprofiles.training.deepseekjob.dev"


def install(kubectl: Kubectl) -> None:
    """Applies the CRDs and waits until the API server serves them."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE), "-f", str(PROFILE_CRD_FILE))
    wait_until_served(kubectl)


def wait_until_served(kubectl: Kubectl) -> None:
    """Returns once jobs and profiles can be listed. `kubectl wait` fails on an object that has no conditions yet."""
    both = f"{PLURAL},{PROFILE_PLURAL}"
    eventually(lambda: kubectl.run("get", both, "-A", "-o", "name") is not None, deadline_s=30, what="CRDs are served")
