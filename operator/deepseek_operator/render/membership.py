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
    }
    return json.dumps(wire, sort_keys=True, separators=(",", ":"))
