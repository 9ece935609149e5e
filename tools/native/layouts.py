"""Images of many layers, as OCI layouts and archives of them: of a new image only what is new is written and imported.

A layout is a folder that keeps each layer once, by its digest, for as long as an image in it has it. An archive of one
image has all its layers; `lean` is one without those that somebody has already.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

_NAME = "org.opencontainers.image.ref.name"
_TAG = "io.containerd.image.name"
_INDEX, _MARK, _BLOBS = "index.json", "oci-layout", "blobs/sha256"
_COPY_BYTES = 1 << 20


def prune(layout: Path) -> None:
    """Removes what no image of the layout has any more."""
    kept = {_digest(blob) for image in _index(layout)["manifests"] for blob in _blobs_of(layout, image)}
    for blob in (layout / _BLOBS).iterdir():
        if blob.name not in kept:
            blob.unlink()


def write_archive(target: Path, layout: Path, name: str, tag: str) -> None:
    """Writes the layout's image of this name as an archive, to be imported under this tag."""
    image = next(one for one in _index(layout)["manifests"] if one.get("annotations", {}).get(_NAME) == name)
    blobs = [_digest(blob) for blob in _blobs_of(layout, image)]
    _, config, *layers = [f"{_BLOBS}/{digest}" for digest in blobs]
    index = {"schemaVersion": 2, "manifests": [{**image, "annotations": {_TAG: tag}}]}
    with tarfile.TarFile(target, "w", copybufsize=_COPY_BYTES) as archive:
        _add(archive, _MARK, (layout / _MARK).read_bytes())
        _add(archive, _INDEX, json.dumps(index).encode())
        _add(archive, "manifest.json", json.dumps([{"Config": config, "RepoTags": [tag], "Layers": layers}]).encode())
        for digest in dict.fromkeys(blobs):
            archive.add(layout / _BLOBS / digest, f"{_BLOBS}/{digest}")


def lean(archive: Path, target: Path, known: Collection[str]) -> None:
    """Writes the archive without the blobs with these digests."""
    with tarfile.open(archive) as whole, tarfile.TarFile(target, "w", copybufsize=_COPY_BYTES) as rest:
        for member in whole:
            if member.name.removeprefix(f"{_BLOBS}/") not in known:
                rest.addfile(member, whole.extractfile(member))


def is_layout(archive: Path) -> bool:
    """Whether it is an archive of a layout; others may not lack a layer."""
    try:
        with tarfile.open(archive) as whole:
            first = whole.next()
    except tarfile.TarError:  # whoever imports it says what is wrong
        return False
    return first is not None and first.name == _MARK


def _index(layout: Path) -> Mapping[str, Any]:
    index: dict[str, Any] = json.loads((layout / _INDEX).read_bytes())
    return index


def _blobs_of(layout: Path, image: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Manifest, config and layers, in this order."""
    manifest = json.loads((layout / _BLOBS / _digest(image)).read_bytes())
    yield from (image, manifest["config"], *manifest["layers"])


def _digest(blob: Mapping[str, Any]) -> str:
    return str(blob["digest"]).removeprefix("sha256:")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
