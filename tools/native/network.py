"""Addresses of a cluster, all derived from its index, and the one bridge that it has on the host.

Each cluster owns 10.<160 + index>.0.0/16: nodes, pods and services are parts of it, so that clusters never overlap.
Everything else of the network lives in the nodes' namespaces and vanishes with them.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from native.errors import NativeError, run

MAX_CLUSTERS = 64
MAX_NODES = 32


@dataclass(frozen=True)
class Network:
    """The address plan of the cluster with this index."""

    index: int

    @property
    def cidr(self) -> str:
        return f"10.{160 + self.index}.0.0/16"

    @property
    def bridge(self) -> str:
        """Name of the host's link; at most 15 characters."""
        return f"dsj{self.index}"

    @property
    def gateway(self) -> str:
        """The host's address on the bridge: API server and DNS listen here."""
        return f"10.{160 + self.index}.0.1"

    @property
    def service_cidr(self) -> str:
        return f"10.{160 + self.index}.128.0/17"

    @property
    def service_ip(self) -> str:
        """The API server's address inside the cluster."""
        return f"10.{160 + self.index}.128.1"

    @property
    def pod_cidr(self) -> str:
        """All pods of the cluster."""
        return f"10.{160 + self.index}.64.0/18"

    def node_ip(self, node: int) -> str:
        return f"10.{160 + self.index}.0.{10 + node}"

    def node_pod_cidr(self, node: int) -> str:
        return f"10.{160 + self.index}.{64 + node}.0/24"

    def mac(self, place: int) -> str:
        """Hardware address of the bridge (0) or of node number place-1: a machine keeps its own when it boots again.

        Otherwise the others would send to the old one until their neighbour entries time out, and a bridge takes the
        lowest of its ports', which changes with them.
        """
        return f"02:d5:00:00:{self.index:02x}:{place:02x}"

    def link(self, node: int) -> str:
        """Host end of the node's cable."""
        return f"{self.bridge}n{node}"


def free_index(taken: Iterable[int]) -> int:
    """The lowest index that no cluster has and whose addresses no route of this machine covers.

    Raises:
        NativeError: all are taken.
    """
    used = set(taken)
    routes = [
        ipaddress.ip_network(route["dst"])
        for route in json.loads(run(["ip", "-json", "-4", "route", "show"]) or "[]")
        if route["dst"] != "default"
    ]
    for index in range(MAX_CLUSTERS):
        own = ipaddress.ip_network(Network(index).cidr)
        if index not in used and not any(own.overlaps(route) for route in routes):
            return index
    raise NativeError(f"no free network among {MAX_CLUSTERS} of 10.160.0.0/10; end a cluster with `make cluster-down`")


def create_bridge(network: Network) -> None:
    """Adds the bridge with the gateway's address."""
    run(["ip", "link", "add", network.bridge, "address", network.mac(0), "type", "bridge"])
    run(["ip", "address", "add", f"{network.gateway}/24", "dev", network.bridge])
    run(["ip", "link", "set", network.bridge, "up"])


def connect_node(network: Network, node: int, pid: int) -> None:
    """Plugs a cable into the network namespace of process `pid` (there: eth0), and routes the node's pods to it."""
    remove_link(network.link(node))  # the cable of a node that has just died vanishes a moment later
    plug = ["name", "eth0", "address", network.mac(node + 1), "netns", str(pid)]
    run(["ip", "link", "add", network.link(node), "type", "veth", "peer", *plug], what=f"connect node {node}")
    run(["ip", "link", "set", network.link(node), "master", network.bridge, "up"])
    pods = network.node_pod_cidr(node)
    run(["ip", "route", "replace", pods, "via", network.node_ip(node), "dev", network.bridge])


def limit_rate(network: Network, node: int, mbit: int | None) -> None:
    """What the node gets from others comes no faster than so many Mbit/s, as long as its cable is there. None: no limit."""
    link = network.link(node)
    bucket = ["tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "400ms"] if mbit else ["noqueue"]
    run(["tc", "qdisc", "replace", "dev", link, "root", *bucket])


def remove_link(name: str) -> None:
    """Deletes a link of the host if it exists; its routes and addresses go with it."""
    if name in links():
        # It may vanish by itself in between: what counts is that it is gone.
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
    if name in links():
        raise NativeError(f"link {name} can't be deleted; try `ip link delete {name}` and look at what it says")


def links() -> set[str]:
    """Names of the host's links."""
    return {link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show"]))}
