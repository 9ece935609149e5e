"""Images that are unpacked once: what a node does with its links changes nothing for the next one."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Collection
from pathlib import Path

import pytest
from native import archives, binaries, imagestore, layouts, packages
from native.errors import NativeError, run
from support import imagelayouts, kube

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def names_in(root: Path, *command: str) -> set[str]:
    """Images that a containerd with this root has, after it was told something."""
    with imagestore.containerd(root) as socket:
        ctr = [packages.require("ctr"), "--address", str(socket), "--namespace", "k8s.io", "images"]
        if command:
            run([*ctr, *command])
        return set(run([*ctr, "list", "--quiet"]).split())


def digests(root: Path) -> dict[str, str]:
    """Of all files that a store hands out."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_images_are_unpacked_once_and_shared(tmp_path: Path) -> None:
    kube.require_nodes()
    program = binaries.ensure("pause")["pause"]

    def archive(kind: str, content: int) -> Path:
        target = tmp_path / f"{kind}-{content}.tar"
        (tmp_path / "program").write_bytes(program.read_bytes() + bytes([content]))
        archives.write_single_binary(target, f"localhost/{kind}:dev", tmp_path / "program")
        return target

    store, nodes = tmp_path / "store", [tmp_path / f"node{i}" for i in range(4)]
    first, second = archive("first", 1), archive("second", 1)
    assert imagestore.give([first], nodes[:2], store)
    assert names_in(nodes[0]) == {"localhost/first:dev"}

    # A node that removes its image takes it from nobody else.
    before = digests(store / "root")
    assert names_in(nodes[0], "remove", "--sync", "localhost/first:dev") == set()
    assert digests(store / "root") == before
    assert names_in(nodes[1]) == {"localhost/first:dev"}

    # What is there is not imported again: without its archive it is given all the same.
    first.unlink()
    assert imagestore.give([first, second], nodes[2:3], store)
    assert names_in(nodes[2]) == {"localhost/first:dev", "localhost/second:dev"}

    # A newer image of a kind takes the place of the older one.
    assert imagestore.give([archive("first", 2)], nodes[3:], store)
    assert names_in(nodes[3]) == {"localhost/first:dev", "localhost/second:dev"}
    changed = digests(store / "root").keys() - before.keys()
    assert any("blobs" in name for name in changed)


def test_of_a_newer_image_only_what_is_new_is_read(tmp_path: Path) -> None:
    """Its archive needn't even have a layer that the store has."""
    kube.require_nodes()
    layout, store, nodes = tmp_path / "layout", tmp_path / "store", [tmp_path / f"node{i}" for i in range(2)]

    def archive(number: int, without: Collection[str] = ()) -> tuple[Path, list[str]]:
        layers = imagelayouts.put(layout, "trainer", layer("base", b"torch"), layer("code", bytes([number])))
        whole, target = tmp_path / f"whole-{number}.tar", tmp_path / f"trainer-{number}.tar"
        layouts.write_archive(whole, layout, "trainer", "localhost/trainer:dev")
        layouts.lean(whole, target, without)
        return target, layers

    first, (base, _) = archive(1)
    assert imagestore.give([first], nodes[:1], store)
    second, _ = archive(2, without={base})
    assert imagestore.give([second], nodes[1:], store)
    assert names_in(nodes[1]) == {"localhost/trainer:dev"}
    assert b"torch" in {path.read_bytes() for path in nodes[1].rglob("base")}
    assert bytes([2]) in {path.read_bytes() for path in nodes[1].rglob("code")}


def layer(name: str, content: bytes) -> bytes:
    """A layer with one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        opened.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_an_import_that_fails_is_none(tmp_path: Path) -> None:
    kube.require_nodes()
    store, node, broken = tmp_path / "store", tmp_path / "node", tmp_path / "pause-broken.tar"
    broken.write_bytes(b"not an archive")
    with pytest.raises(NativeError, match=r"import .*pause-broken\.tar"):
        imagestore.give([broken], [node], store)
    assert not node.exists()
    archives.write_single_binary(broken, "localhost/pause:dev", binaries.ensure("pause")["pause"])
    assert imagestore.give([broken], [node], store), "it was not taken for imported"
    assert names_in(node) == {"localhost/pause:dev"}
