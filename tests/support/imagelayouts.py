"""Images of a few layers in an OCI layout, as a push into it would leave them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_TYPE = "application/vnd.oci.image.{}"


def put(layout: Path, name: str, *layers: bytes) -> list[str]:
    """Puts an image of this name beside the others of a layout; the digests of its layers, which are tar files."""
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    described = [_blob(layout, "layer.v1.tar", layer) for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in described]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _TYPE.format("manifest.v1+json"),
        "config": _blob(layout, "config.v1+json", config),
        "layers": described,
    }
    named = {"org.opencontainers.image.ref.name": name}
    made = _blob(layout, "manifest.v1+json", json.dumps(manifest).encode()) | {"annotations": named}
    index = layout / "index.json"
    others = json.loads(index.read_text())["manifests"] if index.exists() else []
    manifests = [*(one for one in others if one["annotations"] != named), made]
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    return [layer["digest"].removeprefix("sha256:") for layer in described]


def _blob(layout: Path, kind: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return {"mediaType": _TYPE.format(kind), "digest": f"sha256:{digest}", "size": len(content)}
