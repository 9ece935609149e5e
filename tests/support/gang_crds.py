"""CRDs of the gang schedulers on a test's API server: the definitions alone, no scheduler.

Coscheduling's is the one that its Go module ships. Volcano's API module has none, so the fields that are written here
are defined as its types are; what is not defined is refused, as strict validation would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from native import binaries
from support.api import Api
from support.eventually import eventually
from support.yamls import document

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
TEXT = {"type": "string"}
VOLCANO: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podgroups.scheduling.volcano.sh"},
    "spec": {
        "group": "scheduling.volcano.sh",
        "scope": "Namespaced",
        "names": {"kind": "PodGroup", "listKind": "PodGroupList", "plural": "podgroups", "singular": "podgroup"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "minMember": {"type": "integer", "format": "int32"},
                                    "queue": {**TEXT, "default": "default"},
                                    "priorityClassName": TEXT,
                                    "minResources": {
                                        "type": "object",
                                        "additionalProperties": {
                                            "anyOf": [{"type": "integer"}, {"type": "string"}],
                                            "x-kubernetes-int-or-string": True,
                                        },
                                    },
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


def coscheduling() -> dict[str, Any]:
    """The CRD of scheduler-plugins' PodGroup."""
    source = binaries.source_dir("scheduler-plugins", "sigs.k8s.io/scheduler-plugins")
    text = (source / "config/crd/bases/scheduling.x-k8s.io_podgroups.yaml").read_text(encoding="utf-8")
    crd: dict[str, Any] = document(text)
    return crd


def leave_alone(api: Api, *names: str) -> None:
    """Skips on somebody's own cluster that has one of these CRDs: the test would take it away, with all that is in it."""
    if not os.environ.get("KUBECONFIG"):
        return
    if there := [name for name in names if api.find(f"{CRDS}/{name}") is not None]:
        pytest.skip(f"this cluster has {', '.join(there)} of its own")


def serve(api: Api, crd: dict[str, Any]) -> None:
    """Installs a CRD and waits until its objects can be listed."""
    spec = crd["spec"]
    api.create(CRDS, crd)
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    eventually(lambda: api.find(path) is not None, deadline_s=60, what=f"{path} is served")


@contextmanager
def removed(api: Api, *names: str) -> Iterator[None]:
    """The block, and then the CRDs are gone."""
    try:
        yield
    finally:
        for name in names:
            api.delete(f"{CRDS}/{name}")
        for name in names:
            eventually(partial(_gone, api, name), deadline_s=60, what=f"{name} is gone")


def _gone(api: Api, name: str) -> bool:
    return api.find(f"{CRDS}/{name}") is None
