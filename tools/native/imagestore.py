"""Containerd's store with the images unpacked, in the cache: made once, and given to each node as hard links.

Importing the trainer's image costs each node forty seconds of a processor; linking what was imported costs two, and
importing an image that differs in its last layer costs that layer. Rules:
what is linked is never written to again (containerd adds and removes files, it changes none but its databases,
which are copied); an archive counts once the record names it, which is after its import.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from native import binaries, layouts, node_init, packages, processes
from native.errors import run

RECORD = "images.json"
_HELD = "-held"


def give(images: Sequence[Path], targets: Sequence[Path], store: Path | None = None) -> bool:
    """Fills new folders, each to be the root of a node's containerd, with these images.

    Args:
        store: default: in the cache.

    Returns:
        Whether they were; not where the folders are on another disk than the cache, which has no links to it.
    """
    store = store or binaries.cache_root() / "images" / "unpacked"
    store.mkdir(parents=True, exist_ok=True)
    if any(store.stat().st_dev != target.parent.stat().st_dev for target in targets):
        return False
    with _locked(store):
        _import(store, images)
        for target in targets:
            _link(store / "root", target)
    return True


def _import(store: Path, images: Sequence[Path]) -> None:
    """Imports the archives that the store doesn't have. Containerd itself drops what nothing refers to any more."""
    version = run([packages.require("containerd"), "--version"]).strip()
    record = store / RECORD
    known = json.loads(record.read_text()) if record.exists() else {}
    if known.get("containerd") != version:
        shutil.rmtree(store / "root", ignore_errors=True)
        known = {"containerd": version}
    new = [image for image in images if known.get(_kind(image)) != image.name]
    if not new:
        return
    with containerd(store / "root") as socket:
        for image in new:
            record.write_text(json.dumps({key: value for key, value in known.items() if key != _kind(image)}))
            _import_new(image, store, socket)
            known[_kind(image)] = image.name
    record.write_text(json.dumps(known))


def _import_new(image: Path, store: Path, socket: Path) -> None:
    """Imports an archive, whose layers that are there already needn't be read."""
    blobs = store / "root" / "io.containerd.content.v1.content" / "blobs" / "sha256"
    known = {blob.name for blob in blobs.glob("*")} if layouts.is_layout(image) else set()
    with tempfile.TemporaryDirectory(dir=store, prefix="lean-") as scratch, _held(socket):
        archive = image
        if known:
            archive = Path(scratch) / image.name
            layouts.lean(image, archive, known)
        node_init.import_image(packages.require("ctr"), socket, str(archive))


@contextmanager
def _held(socket: Path) -> Iterator[None]:
    """Keeps what the images of now are unpacked to: else it is dropped when one is replaced, before its successor is unpacked."""
    images = [packages.require("ctr"), "--address", str(socket), "--namespace", "k8s.io", "images"]
    names = [name for name in run([*images, "list", "--quiet"]).split() if not name.endswith(_HELD)]
    for name in names:
        run([*images, "tag", "--force", name, name + _HELD])
    try:
        yield
    finally:
        if names:
            run([*images, "remove", *(name + _HELD for name in names)])


@contextmanager
def containerd(root: Path) -> Iterator[Path]:
    """A containerd that has this root and runs no container; its socket. Its mounts are its own."""
    with tempfile.TemporaryDirectory(prefix="deepseekjob-containerd-") as scratch:
        folder = Path(scratch)
        socket = folder / "containerd.sock"
        (folder / "containerd.toml").write_text(
            f'version = 2\nroot = "{root}"\nstate = "{folder / "state"}"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{socket}"\n'
        )
        alone = ["unshare", "--mount", "--propagation", "private"]
        command = [*alone, packages.require("containerd"), "--config", str(folder / "containerd.toml")]
        daemon = processes.start("containerd", command, folder, bound_to_parent=True)
        try:
            node_init.await_containerd(packages.require("ctr"), socket, "the image store")
            yield socket
        finally:
            processes.stop([daemon])


def _link(root: Path, target: Path) -> None:
    """Links every file but the databases, which are written to in place."""
    run(["cp", "--archive", "--link", str(root), str(target)], what="link the images")
    for database in root.glob("*/*.db"):
        copy = target / database.relative_to(root)
        copy.unlink()
        shutil.copy2(database, copy)


def _kind(image: Path) -> str:
    """`trainer` of trainer-0123456789abcdef.tar: an import replaces the image of that kind."""
    return image.stem.rpartition("-")[0]


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    with (store / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
