"""Docker archives without a container engine: an image of one file."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path


def write_single_binary(target: Path, tag: str, program: Path) -> None:
    """Writes an image whose only content and entry point is one static program. Equal inputs give equal bytes."""
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
        }
    ).encode()
    names = {"Config": f"{_sha256(configuration)}.json", "RepoTags": [tag], "Layers": ["layer.tar"]}
    content = {str(names["Config"]): configuration, "layer.tar": layer, "manifest.json": json.dumps([names]).encode()}
    scratch = target.with_suffix(".tmp")
    scratch.write_bytes(_tar(content, mode=0o644))
    scratch.replace(target)


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
