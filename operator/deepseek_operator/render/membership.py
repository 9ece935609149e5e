"""A pod's part in a generation, and its wire form in the membership annotation.

The wire form is canonical (sorted keys, no spaces): two equal memberships are equal strings, so that a pod
needs a patch exactly when its annotation differs. The worker's twin is `deepseek_trainer.contract.Membership`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from deepseek_operator.api.names import MASTER_PORT


@dataclass(frozen=True, slots=True)
class Membership:
    """One pod's part in one generation."""

    generation: int
    attempt: int
    node_rank: int
    nodes: int
    master: str
    """IP address or DNS name of the pod that hosts the generation's store."""
    host: bool
    """This pod hosts the store."""
    port: int = MASTER_PORT
    planned: bool = False
    """Nobody was lost: the training processes may save before they join."""


def membership_json(membership: Membership) -> str:
    """The value of the membership annotation."""
    wire = {
        "generation": membership.generation,
        "attempt": membership.attempt,
        "nodeRank": membership.node_rank,
        "nodes": membership.nodes,
        "master": membership.master,
        "port": membership.port,
        "host": membership.host,
    } | ({"planned": True} if membership.planned else {})
    return json.dumps(wire, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Announced:
    """What a membership annotation says of its pod's place, as far as it can be read."""

    generation: int = 0
    """0 when the annotation is absent or no membership."""
    node_rank: int | None = None


def read_announced(annotation: str | None) -> Announced:
    """Reads a membership annotation. Anybody who may patch pods may have written it: nothing in it is an error."""
    try:
        wire = json.loads(annotation or "{}")
        generation, node_rank = wire.get("generation"), wire.get("nodeRank")
    except (ValueError, AttributeError, RecursionError):
        return Announced()
    return Announced(
        generation=generation if type(generation) is int and 0 < generation < 2**31 else 0,
        node_rank=node_rank if type(node_rank) is int and node_rank >= 0 else None,
    )
