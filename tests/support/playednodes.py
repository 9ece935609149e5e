"""Node objects without machines, and a node controller in a hurry: a silent node is unreachable, then its pods are evicted."""

from __future__ import annotations

import time
from collections.abc import Iterable

from support.api import Api, ApiFailure, Object

NODES = "/api/v1/nodes"
UNREACHABLE_AFTER_S, EVICTED_AFTER_S = 1.0, 3.0
"""After a node went silent. In a cluster that is told to be quick it is about ten seconds."""


class PlayedNodes:
    """Some nodes of a cluster that has no others of these names."""

    def __init__(self, api: Api, names: Iterable[str]) -> None:
        self._api = api
        self.names = tuple(names)
        self._silent_since: dict[str, float] = {}
        self._told: dict[str, bool] = {}

    def create(self) -> None:
        for node in self.names:
            self._api.create(NODES, {"metadata": {"name": node}})
            self._tell(node, up=True)

    def delete(self) -> None:
        for node in self.names:
            self._api.delete(f"{NODES}/{node}")

    def up(self) -> tuple[str, ...]:
        return tuple(node for node in self.names if node not in self._silent_since)

    def silence(self, node: str) -> None:
        self._silent_since[node] = time.monotonic()

    def revive(self, node: str) -> None:
        if self._silent_since.pop(node, None) is not None:
            self._tell(node, up=True)

    def control(self, pods_path: str, pods: Iterable[Object]) -> None:
        """What the control plane does about silent nodes and the pods on them."""
        silent = {node: time.monotonic() - since for node, since in self._silent_since.items()}
        overdue = {node: seconds for node, seconds in silent.items() if seconds >= UNREACHABLE_AFTER_S}
        for node in overdue:
            self._tell(node, up=False)
        for raw in pods:
            seconds = overdue.get(raw["spec"].get("nodeName", ""), 0.0)
            if seconds and "deletionTimestamp" not in raw["metadata"]:
                self._condemn(f"{pods_path}/{raw['metadata']['name']}", raw, evicted=seconds >= EVICTED_AFTER_S)

    def _condemn(self, path: str, raw: Object, *, evicted: bool) -> None:
        conditions = raw["status"].get("conditions", [])
        not_ready = [{**found, "status": "False"} if found["type"] == "Ready" else found for found in conditions]
        try:
            if not_ready != conditions:
                self._api.merge(f"{path}/status", {"status": {"conditions": not_ready}})
            if evicted:
                self._api.delete(path)
        except ApiFailure as error:
            if error.status != 404:  # somebody deleted it by force
                raise

    def _tell(self, node: str, *, up: bool) -> None:
        if self._told.get(node) != up:
            ready = {"type": "Ready", "status": "True" if up else "Unknown", "reason": "Played", "message": ""}
            self._api.merge(f"{NODES}/{node}/status", {"status": {"conditions": [ready]}})
            taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
            self._api.merge(f"{NODES}/{node}", {"spec": {"taints": [] if up else [taint]}})
            self._told[node] = up
