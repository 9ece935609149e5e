"""Addresses, interfaces and ports of this pod, and what collectives must be told about them."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

_SIOCGIFADDR = 0x8915


def own_address() -> str:
    """This host's address by its own name, or loopback when the name has none."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def interface_of(address: str) -> str | None:
    """Name of the interface that has this address; None when no interface has it."""
    ip = ipaddress.ip_address(address)
    if ip.is_loopback:
        return "lo"
    if ip.version == 6:
        return _interface_of_ipv6(ip.packed.hex())
    for _, name in socket.if_nameindex():
        if _ipv4_of(name) == address:
            return name
    return None


def collectives_environment(
    pod_ip: str | None, backend: str, proc_per_node: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """Variables that training processes need beside torchrun's, without those that the user has set.

    Left alone, gloo takes the interface that the host's name resolves to, which need not be the pod's; and each
    process would start a thread for every core of the machine, though the pod (or the other local pods) has a share.
    """
    loopback = bool(pod_ip) and ipaddress.ip_address(str(pod_ip)).is_loopback
    threads = 1 if loopback else max(1, available_cpus() // proc_per_node)
    wanted = {"OMP_NUM_THREADS": str(threads)}
    if pod_ip and (interface := interface_of(pod_ip)):
        wanted["GLOO_SOCKET_IFNAME"] = interface
        if backend != "gloo":
            wanted["NCCL_SOCKET_IFNAME"] = f"={interface}"  # without the sign NCCL takes it for a prefix
    return {name: value for name, value in wanted.items() if not environ.get(name)}


def available_cpus(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs that this container may use: its affinity, cut by the cgroup's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text().split()[:2]
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def _ipv4_of(interface: str) -> str | None:
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            answer = fcntl.ioctl(handle.fileno(), _SIOCGIFADDR, request)
        except OSError:  # the interface has no IPv4 address
            return None
    return socket.inet_ntoa(answer[20:24])


def _interface_of_ipv6(packed_hex: str) -> str | None:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[-1] for line in lines if line.startswith(packed_hex)), None)
