"""CoreDNS on the host, at the bridge's address: names of services and of pods behind headless services."""

from __future__ import annotations

import json
from pathlib import Path

from native import binaries, controlplane, processes
from native.controlplane import ControlPlane
from native.errors import run
from native.processes import Daemon

USER = "coredns"
_RULES = (
    {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
)


def start(plane: ControlPlane, address: str, domain: str) -> Daemon:
    """Starts it; answers live for 1 s, so that a replaced pod is found at its new address at once."""
    built = binaries.ensure("coredns", "kubectl")
    _allow(plane, built["kubectl"])
    kubeconfig = controlplane.identity_kubeconfig(plane, USER, f"/CN={USER}")
    corefile = plane.directory / "Corefile"
    corefile.write_text(f""".:53 {{
  bind {address}
  errors
  kubernetes {domain} {{
    kubeconfig {kubeconfig}
    ttl 1
  }}
}}
""")
    return processes.start(USER, [built["coredns"], "-conf", corefile], plane.directory)


def _allow(plane: ControlPlane, kubectl: Path) -> None:
    rbac = "rbac.authorization.k8s.io"
    role = {"kind": "ClusterRole", "metadata": {"name": USER}, "rules": list(_RULES)}
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": USER},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": USER},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": USER}],
    }
    items = [{"apiVersion": f"{rbac}/v1", **item} for item in (role, binding)]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    run([str(kubectl), "--kubeconfig", str(plane.kubeconfig), "apply", "-f", "-"], stdin=manifest.encode())
