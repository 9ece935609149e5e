"""Kubernetes' own programs, built from Go modules that are pinned in modules/*/go.mod and go.sum.

Rules: a build is a function of the files in its folder there (they are the cache key); a binary appears in the cache by rename,
so that a reader never sees half of one; two builders of one module wait for each other (flock).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from native.errors import NativeError, Unavailable, main_of, run

MODULES = Path(__file__).parent / "modules"
OLDEST_GO = (1, 24)
_KUBE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
PACKAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **{name: ("kube", f"k8s.io/kubernetes/cmd/{name}") for name in _KUBE},
        "etcd": ("etcd", "go.etcd.io/etcd/server/v3"),
        "coredns": ("coredns", "github.com/coredns/coredns"),
        "helm": ("helm", "helm.sh/helm/v3/cmd/helm"),
        "kwok": ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
        "kueue": ("kueue", "sigs.k8s.io/kueue/test/performance/scheduler/minimalkueue"),
        "pause": ("pause", "."),
    }
)
"""binary -> (folder under modules/, main package)."""


def cache_root() -> Path:
    """$DEEPSEEKJOB_CACHE, default ~/.cache/deepseekjob."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepseekjob"
    return Path(os.environ.get("DEEPSEEKJOB_CACHE") or default)


def bin_dir(module: str) -> Path:
    """Where the module's binaries are cached; its name changes with the pinned versions."""
    key = hashlib.sha256()
    for path in sorted((MODULES / module).iterdir()):
        key.update(path.read_bytes())
    return cache_root() / "native" / f"{module}-{key.hexdigest()[:16]}" / "bin"


def missing(*names: str) -> list[str]:
    """Those of the binaries that a call of `ensure` would have to build."""
    return [name for name in names if not (bin_dir(PACKAGES[name][0]) / name).exists()]


def ensure(*names: str) -> dict[str, Path]:
    """Paths of the named binaries (default: all), after building those that are not cached.

    Raises:
        NativeError: the name is unknown, Go is absent or too old, or a build failed.
    """
    wanted = names or tuple(PACKAGES)
    if unknown := [name for name in wanted if name not in PACKAGES]:
        raise NativeError(f"{', '.join(unknown)}: not a known binary; known are {', '.join(PACKAGES)}")
    for name in missing(*wanted):
        _build(name)
    return {name: bin_dir(PACKAGES[name][0]) / name for name in wanted}


def go() -> Path:
    """The Go command.

    Raises:
        Unavailable: there is none, or it is older than the module files need.
    """
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    need = ".".join(map(str, OLDEST_GO))
    if found is None:
        raise Unavailable(
            f"Kubernetes is built from source here and needs Go >= {need}, which is not on PATH; "
            "install it from https://go.dev/dl, or set KUBECONFIG to a cluster that exists"
        )
    version = run([found, "env", "GOVERSION"]).strip()
    match = re.match(r"go(\d+)\.(\d+)", version)
    if match and (int(match[1]), int(match[2])) < OLDEST_GO:
        raise Unavailable(f"{found} is {version}; building Kubernetes needs Go >= {need}: install a newer one")
    return Path(found)


def source_dir(folder: str, path: str) -> Path:
    """Where Go keeps the source of the module that modules/<folder> pins, for files that it ships; fetched if need be.

    Raises:
        Unavailable: there is no Go.
        NativeError: the module can't be had.
    """
    argv = ["env", "GOFLAGS=", str(go()), "-C", str(MODULES / folder), "mod", "download", "-json", path]
    return Path(json.loads(run(argv, timeout_s=600, what=f"source of {path}"))["Dir"])


def kubernetes_version() -> str:
    """The pinned version, for example 1.34.4."""
    match = re.search(r"^\s*k8s\.io/kubernetes v(\S+)", (MODULES / "kube" / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise NativeError(f"{MODULES}/kube/go.mod names no k8s.io/kubernetes; restore the file")
    return match[1]


def _build(name: str) -> None:
    module, package = PACKAGES[name]
    target = bin_dir(module) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent.parent / "lock"):
        if target.exists():  # another builder was faster
            return
        print(f"building {name} from {package} (minutes the first time)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=target.parent.parent) as scratch:
            built = Path(scratch) / name
            argv = [str(go()), "-C", str(MODULES / module), "build", "-trimpath", "-buildvcs=false", "-mod=readonly"]
            environment = ["env", "CGO_ENABLED=0", "GOFLAGS="]
            run([*environment, *argv, "-ldflags", _linker_flags(module), "-o", str(built), package], timeout_s=3600)
            built.replace(target)


def _linker_flags(module: str) -> str:
    """Kubernetes reports the version that is linked in; without it kubelet and API server say v0.0.0."""
    if module != "kube":
        return "-s -w"
    version = kubernetes_version()
    major, minor, _ = version.split(".", 2)
    stamp = "-X k8s.io/component-base/version."
    return f"-s -w {stamp}gitVersion=v{version} {stamp}gitMajor={major} {stamp}gitMinor={minor}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="native.binaries", description="Builds what is missing and prints the paths.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}; default: all")
    for path in ensure(*parser.parse_args(arguments).names).values():
        print(path)


if __name__ == "__main__":
    main_of(_main)
