"""Process 1 of a node: it lives in PID, mount, network and UTS namespaces of its own, as a machine would.

It mounts what must be private, waits for its cable, starts containerd, kubelet and kube-proxy, starts again what
ends, and reaps orphans. When it ends, the kernel ends every process of the node and drops its mounts and network:
killing it is a power cut, and nothing of it can be left behind.

usage: python -m native.node_init SPEC.json   (started by native.node through unshare)
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from native import processes
from native.errors import NativeError, run

RESTART_DELAY_S = 1.0
IMPORTED = "images.json"
"""In a node's directory: the archives that its containerd has."""
TUNABLES: Mapping[str, str] = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""Settings of the whole machine that a kubelet wants so. It is shown files that say they are, and changes nothing."""


@dataclass(frozen=True)
class NodeSpec:
    """All that the init process needs to know; written as JSON by native.node."""

    name: str
    directory: str
    address: str
    """With prefix length, for example 10.160.0.10/24."""
    gateway: str
    routes: dict[str, str]
    """Pod network of each other node -> that node's address."""
    containerd: list[str]
    ctr: str
    daemons: dict[str, list[str]]
    """kubelet and kube-proxy: name -> command."""
    images: list[str] = field(default_factory=list)
    """Archives to import before the kubelet starts, unless they were."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))


def main(arguments: Sequence[str]) -> None:
    """Boots the node and stays."""
    spec = NodeSpec(**json.loads(Path(arguments[0]).read_text()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    directory = Path(spec.directory)
    mount_private(directory)
    configure_network(spec)
    commands = {"containerd": spec.containerd, **spec.daemons}
    running = {start(directory, "containerd", commands): "containerd"}
    import_images(spec)
    for name in spec.daemons:
        running[start(directory, name, commands)] = name
    (directory / "booted").touch()
    supervise(directory, running, commands)


def mount_private(directory: Path) -> None:
    """Own /run and /var/log, so that sockets, network namespaces and logs stay apart; tunables that can be "set"."""
    run(["hostname", directory.name])
    run(["mount", "--make-rshared", "/"])  # volumes of pods propagate within this namespace, and not out of it
    for folder in ("/run", "/var/log"):
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder])
    Path("/run/netns").mkdir()
    for folder in ("cni", "kubelet"):  # compiled into containerd's CNI and into the kubelet's device manager
        own = directory / f"var-lib-{folder}"
        own.mkdir(exist_ok=True)
        Path("/var/lib", folder).mkdir(exist_ok=True)
        run(["mount", "--bind", str(own), f"/var/lib/{folder}"])
    for name, value in TUNABLES.items():
        shown = Path("/run") / name.replace("/", ".")
        shown.write_text(value + "\n")
        if Path("/proc/sys", name).exists():
            run(["mount", "--bind", str(shown), f"/proc/sys/{name}"])


def configure_network(spec: NodeSpec) -> None:
    """Waits for the cable, then sets address and routes."""
    run(["ip", "link", "set", "lo", "up"])

    def seen() -> str:
        return Path("/proc/self/net/dev").read_text()

    processes.wait_until(lambda: "eth0:" in seen(), 20, f"{spec.name} gets its cable", seen)
    run(["ip", "address", "add", spec.address, "dev", "eth0"])
    run(["ip", "link", "set", "eth0", "up"])
    run(["ip", "route", "add", "default", "via", spec.gateway])
    for destination, address in spec.routes.items():
        run(["ip", "route", "add", destination, "via", address])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():  # a service's answer within one bridge must pass address translation too
        bridged.write_text("1")


def import_images(spec: NodeSpec) -> None:
    """Waits for containerd and imports each archive that is not recorded as imported."""
    directory = Path(spec.directory)
    socket = directory / "containerd.sock"
    await_containerd(spec.ctr, socket, spec.name)
    record = directory / IMPORTED
    known: list[str] = json.loads(record.read_text()) if record.exists() else []
    for archive in spec.images:
        if archive not in known:
            import_image(spec.ctr, socket, archive)
            known.append(archive)
            record.write_text(json.dumps(known))


def await_containerd(ctr: str, socket: Path, where: str) -> None:
    """Waits until containerd answers."""
    asked = [ctr, "--address", str(socket), "version"]
    processes.wait_until(lambda: _succeeds(asked), 120, f"containerd of {where} answers")


def import_image(ctr: str, socket: Path, archive: str) -> None:
    """Has containerd take an archive's image, unpacked, for the kubelet to use."""
    asked = [ctr, "--address", str(socket), "--namespace", "k8s.io", "images", "import", archive]
    run(asked, what=f"import {archive}", timeout_s=300)


def supervise(directory: Path, running: dict[int, str], commands: Mapping[str, list[str]]) -> None:
    """Reaps for ever; a daemon that ended is started again, as an init system would."""
    while True:
        pid, status = os.wait()
        name = running.pop(pid, None)
        if name is not None:
            print(f"{name} ended with {os.waitstatus_to_exitcode(status)}; starting it again", flush=True)
            time.sleep(RESTART_DELAY_S)
            running[start(directory, name, commands)] = name


def start(directory: Path, name: str, commands: Mapping[str, list[str]]) -> int:
    """Starts a daemon of the node with its log in <directory>/log; returns its pid within the node."""
    logs = directory / "log"
    logs.mkdir(exist_ok=True)
    return processes.start(name, commands[name], logs).pid


def _succeeds(argv: Sequence[str]) -> bool:
    try:
        run(argv, timeout_s=10)
    except NativeError:
        return False
    return True


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except NativeError as error:
        sys.exit(f"error: {error}")
