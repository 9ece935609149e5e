"""etcd and kube-apiserver, and when asked kube-controller-manager and kube-scheduler. Needs no root.

On loopback it is the API server of tests/cluster: RBAC on, own certificates, a free port, ready in seconds. On a
bridge's address it is the control plane of `cluster`. etcd listens on a Unix socket, so that no port can clash.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from native import binaries, certs, processes
from native.certs import Authority
from native.errors import NativeError, run
from native.processes import Daemon

READY_TIMEOUT_S = 180.0
_TAKEN = "address already in use"
_TRIES = 3
"""Ports that are tried: between a look for a free one and the API server's start another process may take it."""
_SERVICE_NAMES = tuple(
    f"DNS:{name}" for name in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
)


@dataclass(frozen=True)
class Settings:
    """Where the API server listens and what it tells its clients."""

    address: str = "127.0.0.1"
    port: int = 0
    """0: a free one is taken."""
    service_cidr: str = "10.96.0.0/16"
    service_ip: str = "10.96.0.1"
    """The API server's own address within service_cidr."""
    service_accounts: bool = False
    """Whether a pod's service account must exist; without a controller manager nobody makes `default`."""
    bound_to_parent: bool = False
    """Whether the processes end with the one that starts them (tests), however that ends."""
    extra: tuple[str, ...] = field(default=())
    """More flags of kube-apiserver."""


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane; everything of it lies in `directory`."""

    directory: Path
    url: str
    authority: Authority
    kubeconfig: Path
    """Of system:masters."""


def start(directory: Path, settings: Settings) -> ControlPlane:
    """Starts etcd and kube-apiserver and waits until the API is ready.

    Raises:
        NativeError: a binary could not be built, or a process ended or was not ready in time.
    """
    built = binaries.ensure("etcd", "kube-apiserver", "kubectl")
    directory.mkdir(parents=True, exist_ok=True)
    authority = certs.create_authority(directory / "pki")
    admin = authority.issue("admin", "/O=system:masters/CN=admin")
    bound = settings.bound_to_parent
    etcd = processes.start("etcd", _etcd(built["etcd"], directory), directory, bound_to_parent=bound)
    argv = _apiserver(built["kube-apiserver"], authority, settings)
    for left in reversed(range(1 if settings.port else _TRIES)):
        port = settings.port or _free_port(settings.address)
        url = f"https://{settings.address}:{port}"
        kubeconfig = certs.write_kubeconfig(directory / "admin.kubeconfig", url, authority, admin)
        command = [*argv, f"--secure-port={port}"]
        apiserver = processes.start("kube-apiserver", command, directory, bound_to_parent=bound)
        try:
            _wait_ready(built["kubectl"], kubeconfig, (etcd, apiserver))
            break
        except NativeError as error:
            if not left or _TAKEN not in str(error):
                raise
    return ControlPlane(directory, url, authority, kubeconfig)


def start_controllers(plane: ControlPlane, *flags: str, bound_to_parent: bool = False) -> Daemon:
    """Starts kube-controller-manager, e.g. with --controllers=garbage-collector-controller."""
    name = "kube-controller-manager"
    kubeconfig = identity_kubeconfig(plane, name, f"/CN=system:{name}")
    keys = plane.authority.directory
    argv: list[str | Path] = [
        binaries.ensure(name)[name],
        *_client_flags(kubeconfig),
        f"--service-account-private-key-file={keys / 'service-accounts.key'}",
        f"--root-ca-file={plane.authority.certificate}",
        "--use-service-account-credentials",
        *flags,
    ]
    return processes.start(name, argv, plane.directory, bound_to_parent=bound_to_parent)


def start_scheduler(plane: ControlPlane, *, bound_to_parent: bool = False) -> Daemon:
    """Starts kube-scheduler."""
    name = "kube-scheduler"
    kubeconfig = identity_kubeconfig(plane, name, f"/CN=system:{name}")
    argv: list[str | Path] = [binaries.ensure(name)[name], *_client_flags(kubeconfig)]
    return processes.start(name, argv, plane.directory, bound_to_parent=bound_to_parent)


def identity_kubeconfig(plane: ControlPlane, name: str, subject: str, names: Sequence[str] = ()) -> Path:
    """A kubeconfig for a new identity, for example subject /O=team/CN=alice."""
    identity = plane.authority.issue(name, subject, names)
    return certs.write_kubeconfig(plane.directory / f"{name}.kubeconfig", plane.url, plane.authority, identity)


def stop(directory: Path) -> None:
    """Stops every process that was started in this directory."""
    processes.stop(processes.recorded(directory), grace_s=3)


@contextmanager
def running(directory: Path, settings: Settings) -> Iterator[ControlPlane]:
    """A control plane for the length of a `with` block; stopped also when its start fails."""
    try:
        yield start(directory, settings)
    finally:
        stop(directory)


def _etcd(program: Path, directory: Path) -> list[str | Path]:
    """Without fsync: the data is thrown away with the test, and the writes of a busy disk would be waited for."""
    sockets = [f"unix://{_short(directory)}/{name}.sock" for name in ("etcd", "peer")]
    return [
        program,
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={sockets[0]}",
        f"--advertise-client-urls={sockets[0]}",
        f"--listen-peer-urls={sockets[1]}",
        f"--initial-advertise-peer-urls={sockets[1]}",
        f"--initial-cluster=default={sockets[1]}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(program: Path, authority: Authority, settings: Settings) -> list[str | Path]:
    pki = authority.directory
    names = [*_SERVICE_NAMES, "IP:127.0.0.1", f"IP:{settings.address}", f"IP:{settings.service_ip}"]
    serving = authority.issue("kube-apiserver", "/CN=kube-apiserver", sorted(set(names)))
    to_kubelets = authority.issue("kubelet-client", "/O=system:masters/CN=kubelet-client")
    tokens = certs.create_signing_key(pki)
    admission = () if settings.service_accounts else ("--disable-admission-plugins=ServiceAccount",)
    return [
        program,
        f"--etcd-servers=unix://{_short(pki.parent)}/etcd.sock",
        f"--bind-address={settings.address}",
        f"--advertise-address={settings.address}",
        f"--service-cluster-ip-range={settings.service_cidr}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.certificate}",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={tokens.certificate}",
        f"--service-account-signing-key-file={tokens.key}",
        f"--kubelet-client-certificate={to_kubelets.certificate}",
        f"--kubelet-client-key={to_kubelets.key}",
        f"--kubelet-certificate-authority={authority.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged",
        *admission,
        *settings.extra,
    ]


def _client_flags(kubeconfig: Path) -> list[str]:
    """Of a controller that serves nothing: nobody asks it, and another process could take its port first."""
    return [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]


def _wait_ready(kubectl: Path, kubeconfig: Path, daemons: Sequence[Daemon]) -> None:
    answer = ["no answer yet"]

    def ready() -> bool:
        for daemon in daemons:
            processes.require_alive(daemon)
        try:
            argv = [str(kubectl), "--kubeconfig", str(kubeconfig), "--request-timeout=5s", "get", "--raw", "/readyz"]
            answer[0] = run(argv, timeout_s=10, what="GET /readyz")
        except NativeError as error:
            answer[0] = str(error)
        return answer[0] == "ok"

    processes.wait_until(ready, READY_TIMEOUT_S, "kube-apiserver becomes ready", lambda: answer[0])


def _short(directory: Path) -> Path:
    """A socket's path may have 107 bytes.

    Raises:
        NativeError: the directory's name is too long.
    """
    if len(str(directory)) > 90:
        raise NativeError(f"{directory}: longer than 90 characters, too long for a Unix socket; use a shorter folder")
    return directory


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
