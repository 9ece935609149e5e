"""The chart's service account and roles on a test's API server, and a kubeconfig that is that account."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from support.api import Api

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def _collection(manifest: Mapping[str, Any]) -> str | None:
    namespace = manifest["metadata"].get("namespace")
    return {
        "ServiceAccount": f"/api/v1/namespaces/{namespace}/serviceaccounts",
        "Role": f"{RBAC}/namespaces/{namespace}/roles",
        "RoleBinding": f"{RBAC}/namespaces/{namespace}/rolebindings",
        "ClusterRole": f"{RBAC}/clusterroles",
        "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    }.get(manifest["kind"])


def apply_access(api: Api, manifests: Iterable[Mapping[str, Any]]) -> str:
    """Creates accounts, roles and bindings anew. Returns the service account's name."""
    account = ""
    for manifest in manifests:
        if path := _collection(manifest):
            name = manifest["metadata"]["name"]
            api.delete(f"{path}/{name}")
            api.create(path, manifest)
            account = name if manifest["kind"] == "ServiceAccount" else account
    return account


def write_token_kubeconfig(path: Path, api: Api, token: str) -> None:
    """A kubeconfig of the same cluster that logs in with a bearer token alone."""
    assert api.ca is not None, "the admin kubeconfig names no certificate authority"
    authority = base64.b64encode(Path(api.ca).read_bytes()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": api.server, "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(config))
