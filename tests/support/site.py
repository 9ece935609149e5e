"""Where the e2e tests run: $KUBECONFIG's cluster, else a native two-node cluster of their own.

| variable, with $KUBECONFIG | meaning |
| --- | --- |
| DEEPSEEKJOB_E2E_OPERATOR_IMAGE, DEEPSEEKJOB_E2E_TRAINER_IMAGE | images that its nodes have or can pull |
| DEEPSEEKJOB_E2E_SHARED | HOST:NODE, a folder of this machine and where every node sees it (kind-config.yaml mounts one) |
| DEEPSEEKJOB_E2E_KEEP | leaves the native cluster running, for a look |
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from native import binaries, cluster, images
from native.errors import Unavailable

NAME = "e2e"
NODES = 2


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster to test on."""

    kubeconfig: Path
    kubectl: Path
    helm: Path
    operator_image: str
    trainer_image: str
    shared_here: Path
    """A folder of this machine …"""
    shared_there: str
    """… and the path under which every node has it."""
    native: cluster.Cluster | None
    """The native cluster, whose nodes can be stopped; None on a given one."""


def prebuild(config: pytest.Config) -> None:
    """Builds binaries and images outside of any test's timeout; without root or Go the fixture skips."""
    if os.environ.get("KUBECONFIG"):
        return
    config.get_terminal_writer().line("preparing the native cluster's binaries and images (minutes, once)")
    try:
        binaries.ensure(*cluster.BINARIES, *cluster.TOOLS)
        images.build()
    except Unavailable as error:
        config.get_terminal_writer().line(f"not prepared: {error}")


@contextmanager
def site() -> Iterator[Site]:
    """The site, for as long as the block; a native cluster is ended after it."""
    try:
        tools = binaries.ensure("kubectl", "helm")
        if given := os.environ.get("KUBECONFIG"):
            yield _given(Path(given), tools)
            return
        running = cluster.up(NAME, NODES, images.build())
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        yield Site(
            kubeconfig=running.kubeconfig,
            kubectl=tools["kubectl"],
            helm=tools["helm"],
            operator_image=images.OPERATOR_IMAGE,
            trainer_image=images.TRAINER_IMAGE,
            shared_here=running.volumes,
            shared_there=str(running.volumes),
            native=running,
        )
    finally:
        if not os.environ.get("DEEPSEEKJOB_E2E_KEEP"):
            cluster.down(NAME)


def _given(kubeconfig: Path, tools: dict[str, Path]) -> Site:
    names = ("DEEPSEEKJOB_E2E_OPERATOR_IMAGE", "DEEPSEEKJOB_E2E_TRAINER_IMAGE", "DEEPSEEKJOB_E2E_SHARED")
    values = [os.environ.get(name, "") for name in names]
    if not all(values):
        pytest.skip(f"KUBECONFIG is set, but not {', '.join(n for n, v in zip(names, values, strict=True) if not v)}")
    here, _, there = values[2].partition(":")
    return Site(kubeconfig, tools["kubectl"], tools["helm"], values[0], values[1], Path(here), there or here, None)
