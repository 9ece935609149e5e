"""helm as a test's hand: render and install the chart of this repository."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.yamls import documents

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "deepseek-operator"
KUBE_VERSION = "1.34.0"
"""What `helm template` assumes; a helm that is built from its module assumes a version too old for the chart."""
RELEASE = "deepseek-operator"
NAMESPACE = "deepseek-system"

Manifest = dict[str, Any]


class HelmError(AssertionError):
    """helm ended with another status than 0; the message has what it said."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Runs one helm binary. Its caches and configuration go to `home`, never to the user's."""

    binary: Path
    home: Path
    kubeconfig: Path | None = None

    def run(self, *args: str, timeout_s: float = 90) -> str:
        """Standard output of `helm ARGS`.

        Raises:
            HelmError: the exit status was not 0.
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HELM_")}
        environment |= {f"HELM_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        if self.kubeconfig:
            environment["KUBECONFIG"] = str(self.kubeconfig)
        done = subprocess.run(
            [str(self.binary), *args], env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def template(self, *settings: str) -> list[Manifest]:
        """The rendered objects; each setting is a `--set` assignment."""
        sets = [part for setting in settings for part in ("--set", setting)]
        text = self.run("template", RELEASE, str(CHART), "-n", NAMESPACE, "--kube-version", KUBE_VERSION, *sets)
        return documents(text)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind, in order."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only one of a kind."""
    (found,) = of_kind(manifests, kind)
    return found
