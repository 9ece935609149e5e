"""Kubernetes Events about jobs: the same thing told again is counted, never a new object.

An Event's name is a digest of what it says and about which job (by UID), so a restarted operator counts on
the same object. Events are for people: one that can't be written is logged and never fails a pass.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any

from deepseek_operator.api.names import API_VERSION, KIND, MANAGER
from deepseek_operator.api.v1alpha1 import ObjectMeta
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.errors import AlreadyExists, ApiError, NamespaceTerminating, NotFound
from deepseek_operator.decide.types import Event

MAX_NOTE = 1024
"""The API server's limit, bytes."""
REMEMBERED = 4096


class Recorder:
    """Writes Events."""

    def __init__(
        self,
        client: KubeClient,
        identity: str,
        now: Callable[[], datetime],
        on_error: Callable[[ObjectMeta, Event, ApiError], None],
    ) -> None:
        self._client = client
        self._identity = identity[:128]
        self._now = now
        self._on_error = on_error
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def record(self, job: ObjectMeta, event: Event) -> None:
        """Creates the Event, or counts it once more."""
        name = event_name(job, event)
        try:
            if name not in self._counts:
                try:
                    await self._client.create_event(job.namespace, self._manifest(job, event, name))
                    return self._remember(name, 1)
                except AlreadyExists:
                    self._remember(name, 1)
            count = self._counts[name] + 1
            await self._client.repeat_event(job.namespace, name, count, _micro_time(self._now()))
            self._remember(name, count)
        except (NotFound, NamespaceTerminating):  # expired on the server, or the namespace goes away
            self._counts.pop(name, None)
        except ApiError as error:
            self._on_error(job, event, error)

    def _remember(self, name: str, count: int) -> None:
        self._counts[name] = count
        self._counts.move_to_end(name)
        while len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    def _manifest(self, job: ObjectMeta, event: Event, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": job.namespace},
            "eventTime": _micro_time(self._now()),
            "reportingController": MANAGER,
            "reportingInstance": self._identity,
            "action": "Reconcile",
            "type": event.type,
            "reason": event.reason,
            "note": event.message.encode()[:MAX_NOTE].decode("utf-8", "ignore"),
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": job.namespace,
                "name": job.name,
                "uid": job.uid,
            },
        }


def event_name(job: ObjectMeta, event: Event) -> str:
    """The job's name, so that a person finds it, and a digest of what is said about which job."""
    said = "\0".join((job.uid, event.type, event.reason, event.message))
    return f"{job.name}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _micro_time(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
