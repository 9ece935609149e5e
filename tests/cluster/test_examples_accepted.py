"""Every example is taken by a real API server, with strict field validation, as a user applies it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.crd import ROOT, install
from support.kubectl import Kubectl

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_is_accepted(kubectl: Kubectl, path: Path) -> None:
    install(kubectl)
    said = kubectl.run("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert "created (server dry run)" in said
