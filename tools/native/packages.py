"""Debian packages that the cluster and the image builder stand on; installed when a command of theirs is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from native.errors import Unavailable, run

NODE: Mapping[str, str] = MappingProxyType(
    {
        "containerd": "containerd",
        "ctr": "containerd",
        "runc": "runc",
        "host-local": "containernetworking-plugins",
        "ip": "iproute2",
        "nft": "nftables",
        "conntrack": "conntrack",
        "openssl": "openssl",
    }
)
"""command -> package."""
IMAGES: Mapping[str, str] = MappingProxyType({"buildah": "buildah", "debootstrap": "debootstrap", "skopeo": "skopeo"})
_CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")
_SEARCH = os.pathsep.join((os.defpath, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *_CNI_FOLDERS))


def require_root(what: str) -> None:
    """Raises Unavailable without root: namespaces, mounts and cgroups need it."""
    if os.geteuid() != 0:
        raise Unavailable(f"{what} needs root; run it as root, or set KUBECONFIG to a cluster that exists")


def ensure(wanted: Mapping[str, str]) -> None:
    """Installs the packages of the commands that are missing.

    Raises:
        Unavailable: something is missing and this is no Debian, or no root.
    """
    packages = sorted({package for command, package in wanted.items() if find(command) is None})
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"missing: {', '.join(packages)}; install them with your package manager")
    print(f"installing {', '.join(packages)}", file=sys.stderr, flush=True)
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    run([*quiet, "update"], what="apt-get update")
    run([*quiet, "install", "--yes", "--no-install-recommends", *packages], what="apt-get install", timeout_s=1200)


def find(command: str) -> str | None:
    """Full path of a command, also where a user's PATH does not lead (sbin, CNI plugins)."""
    return shutil.which(command, path=os.environ.get("PATH", "") + os.pathsep + _SEARCH)


def require(command: str) -> str:
    """Full path of a command.

    Raises:
        Unavailable: it is not installed.
    """
    found = find(command)
    if found is None:
        raise Unavailable(f"{command} is not installed; run cluster-up as root on Debian, or install it")
    return found


def cni_folder() -> Path:
    """The folder of the CNI plugins."""
    found = shutil.which("host-local", path=os.pathsep.join(_CNI_FOLDERS))
    if found is None:
        raise Unavailable(f"no CNI plugins in {' or '.join(_CNI_FOLDERS)}; install containernetworking-plugins")
    return Path(found).parent
