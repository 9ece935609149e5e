"""Checkpoints in a real S3 server: cut off at any request, overtaken at any request, damaged, refused; and a run that resumes.

The server runs in this process (support/s3.py), so a test sees each request before it is served.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepseek_trainer.checkpoint.__main__ import main as list_command
from deepseek_trainer.checkpoint.export import main as export_command
from deepseek_trainer.checkpoint.home import Bucket
from deepseek_trainer.checkpoint.load import Found
from deepseek_trainer.checkpoint.objects import load, transfer
from deepseek_trainer.checkpoint.objects.layout import MANIFEST, Save
from deepseek_trainer.checkpoint.objects.manifests import Manifests
from deepseek_trainer.checkpoint.objects.store import Store, connect, look
from deepseek_trainer.config import ConfigError
from deepseek_trainer.data.audit.__main__ import main as audit_command
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import DataError, FencedError, UnavailableError
from safetensors.torch import load_file
from support.buckets import begun, save, serving, store_of, writer
from support.ports import free_port
from support.procs import Processes, start_training
from support.runs import losses, report, run_config
from support.s3 import ALONE, CREDENTIALS, Server
from support.saver import state

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]
CHANGES = ("PUT", "POST", "DELETE")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(started: Server) -> Iterator[Server]:
    yield started
    started.hook, started.unconditional = (lambda method, path: None), False


@pytest.fixture
def store(server: Server, request: pytest.FixtureRequest) -> Store:
    return store_of(server, request.node.name)


def value(store: Store, found: Found[Save] | None) -> float:
    """What the weights say they are of."""
    assert found is not None
    read = state(0)
    transfer.read(read, store, found.path, found.manifest.files)
    (weight,) = set(read["model"]["weight"].tolist())
    assert set(read["optimizer"]["moment"].tolist()) == {weight / 2}
    return float(weight)


def copied(store: Store, name: str) -> Store:
    """The same objects under another prefix."""
    other = replace(store, url=f"{store.url}-{name}", _root=f"{store._root}-{name}")
    for key in store.sizes():
        other.put(key, store.read(key) or b"")
    return other


def states(store: Store) -> list[tuple[int, bool]]:
    """Step of each save, and whether it is committed."""
    view, manifests = look(store), Manifests(store)
    found = [(save, view.has(save, MANIFEST) and not isinstance(manifests.of(save), str)) for save in view.saves()]
    return [(save.step, committed and ".metadata" in view.of(save)) for save, committed in found]


def test_whatever_request_a_save_ends_at_the_newest_whole_checkpoint_is_found(
    server: Server, store: Store, world: World
) -> None:
    _, first = begun(writer(store, world))
    save(first, 2, 4)
    came_from: list[int] = []
    refusals: list[str] = []
    saved = False
    while not saved:
        here, changes = copied(store, str(len(came_from))), 0

        def cut(method: str, path: str) -> str | None:
            nonlocal changes
            changes += method in CHANGES
            return "refused" if changes > len(came_from) else None

        server.hook = cut
        try:
            save(replace(first, store=here, manifests=Manifests(here)), 6)
            saved = changes <= len(came_from)
        except UnavailableError as error:
            refusals.append(str(error))
        server.hook = lambda method, path: None

        found, second = begun(writer(here, world, generation=2))
        assert found is not None
        assert value(here, found) == found.manifest.step
        came_from.append(found.manifest.step)
        save(second, found.manifest.step + 2)
        assert [step for step, committed in states(here) if committed] == [came_from[-1] + 2, came_from[-1]]
        assert value(here, load.newest_whole(here, second.manifests, look(here))) == came_from[-1] + 2
    assert all(store.url in text for text in refusals)
    assert came_from[0] == 4
    assert came_from[-1] == 6
    assert came_from == sorted(came_from)
    assert len(came_from) > 4


def test_a_save_that_a_newer_generation_overtakes_at_any_request_commits_nothing(
    server: Server, store: Store, world: World
) -> None:
    """Generation 1 stands still before each of its requests in turn; generation 2 starts and saves the same step."""
    _, first = begun(writer(store, world))
    save(first, 4)
    ends: list[bool] = []
    refusals: list[str] = []
    apart = world.apart()
    reached = True
    while reached:
        here, number, reached = copied(store, str(len(ends))), 0, False
        went_on_from: list[int] = []

        def overtake(method: str, path: str) -> None:
            nonlocal number, reached
            if reached:
                return
            number += 1
            if number > len(ends):
                reached = True
                found, second = begun(writer(here, apart, generation=2))  # noqa: B023
                assert found is not None
                went_on_from.append(found.manifest.step)  # noqa: B023
                save(second, 8 if found.manifest.step == 6 else 6)

        server.hook = overtake
        try:
            save(replace(first, store=here, manifests=Manifests(here)), 6)
            committed = True
        except FencedError as error:
            committed = False
            refusals.append(str(error))
        server.hook = lambda method, path: None
        if reached:
            assert went_on_from == [6 if committed else 4], f"overtaken before request {number}"
            newest = load.newest_whole(here, Manifests(here), look(here))
            assert newest is not None
            assert newest.manifest.generation == 2
            assert value(here, newest) == newest.manifest.step == (8 if committed else 6)
            with pytest.raises(FencedError, match="generation 1 must not train"):
                begun(writer(here, world))
            ends.append(committed)
    assert len(ends) > 5
    assert any("made it void" in text for text in refusals)
    assert any("trains there" in text for text in refusals)
    assert not ends[0]
    assert ends[-1]


def test_an_answer_that_is_lost_is_found_out_about(server: Server, store: Store, world: World) -> None:
    lost: list[str] = []

    def lose(method: str, path: str) -> str | None:
        if method == "PUT" and path.endswith((MANIFEST, "starts/00000001.json")) and path not in lost:
            lost.append(path)
            return "lost"
        return None

    server.hook = lose
    _, made = begun(writer(store, world))
    save(made, 2)
    assert len(lost) == 2
    found, second = begun(writer(store, world, generation=2))
    assert value(store, found) == 2
    assert second.number == 2


def test_what_is_damaged_is_passed_over_with_the_reason(
    server: Server, store: Store, world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    _, made = begun(writer(store, world, keep=9))
    save(made, 2, 4, 6, 8, 10, 12)
    saves = look(store).saves()
    assert made.reread(str(saves[5])) == ""
    for place, name, change in (
        (0, "__0_0.distcp", lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:]),
        (1, ".metadata", lambda content: content[:-1]),
        (
            2,
            MANIFEST,
            lambda content: content.replace(b'"position"', b'"Position"').replace(b'"step": 8', b'"step": 9'),
        ),
        (3, "__0_0.distcp", None),
    ):
        key = saves[place].key(name)
        content = store.read(key)
        assert content is not None
        store.delete([key]) if change is None else store.put(key, change(content))

    assert "__0_0.distcp differs from its sha256" in (made.reread(str(saves[0])) or "")
    found, _ = begun(writer(store, world, generation=2))

    assert value(store, found) == 4
    assert found is not None
    reasons = [text.partition(": ")[2] for text in found.passed_over]
    assert reasons[0] == "__0_0.distcp differs from its sha256"
    assert reasons[1].startswith(".metadata has ")
    assert reasons[2] == "its manifest can't be read: it differs from its sha256"
    assert reasons[3] == "__0_0.distcp is missing"
    assert caplog.text.count("skipping checkpoint=step-") == 4

    where = [store.url, "--endpoint", store.endpoint]
    assert list_command([*where, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(row["step"], row["state"]) for row in rows] == [
        (12, "whole"),  # only its bytes say what is wrong with it
        (10, "damaged"),
        (8, "damaged"),
        (6, "damaged"),
        (4, "whole"),
        (2, "whole"),
    ]
    assert [row.get("verified") for row in rows] == [False, None, None, None, False, True]
    assert list_command([*where, "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["state"] == "damaged"

    for damaged in (saves[4], saves[5]):
        store.delete([damaged.key(".metadata")])
    with pytest.raises(DataError, match=r"no checkpoint in s3://runs/\S+ is whole: step-00000012"):
        begun(writer(store, world, generation=2))


def test_a_checkpoint_from_which_training_fails_twice_is_passed_over_until_it_is_trusted(
    store: Store, world: World
) -> None:
    home = Bucket(store, Manifests(store))
    _, made = begun(writer(store, world))
    save(made, 2, 4)
    for generation, steps in ((2, [4]), (3, [4]), (4, [2])):
        found, made = begun(writer(store, world, generation=generation))
        assert found is not None
        assert [found.manifest.step] == steps
        home.record_failure(found.path, made.start, found.manifest.step + 1, KeyError("layer"))
    assert found is not None
    assert "training failed soon in 2 starts from it, last after step 5: KeyError: 'layer'" in found.passed_over[0]
    assert list_command([store.url, "--endpoint", store.endpoint, "--trust", "4"]) == 0
    assert value(store, begun(writer(store, world, generation=5))[0]) == 4


def test_what_the_store_refuses_is_one_line_with_a_remedy(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(url: str, endpoint: str) -> str:
        with pytest.raises((UnavailableError, ConfigError)) as raised:
            begun(writer(connect(url, endpoint), world))
        assert "\n" not in str(raised.value)
        assert url in str(raised.value)
        return str(raised.value)

    assert "make it, or correct checkpoint.objectStore.url" in said("s3://nobodys/job", server.endpoint)
    assert "see that its server can be reached" in said("s3://runs/job", f"http://127.0.0.1:{free_port()}")
    server.hook = lambda method, path: "refused"
    assert "correct the Secret that workers.envFrom names" in said("s3://runs/job", server.endpoint)
    server.hook, server.unconditional = (lambda method, path: None), True
    assert "knows conditional writes" in said("s3://runs/careless", server.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "into a Secret, and name it in workers.envFrom" in said("s3://runs/job", server.endpoint)


def test_a_large_shard_goes_up_in_parts_and_comes_back(server: Server, store: Store, world: World) -> None:
    """40 MiB: two streams, each of several parts; the parts are seen at the server."""
    requests: list[str] = []
    server.hook = lambda method, path: requests.append(method)
    big = {"model": {name: torch.arange(5 * 2**20, dtype=torch.float32) + i for i, name in enumerate("ab")}}
    _, made = begun(writer(store, world))
    made.save(big, {"step": 2})
    assert requests.count("POST") == 4  # two uploads are begun, and completed
    found, _ = begun(writer(store, world, generation=2))
    assert found is not None
    assert sum("distcp" in name for name in found.manifest.files) == 2
    read = {"model": {name: torch.zeros(5 * 2**20) for name in "ab"}}
    transfer.read(read, store, found.path, found.manifest.files)
    assert all(torch.equal(read["model"][name], big["model"][name]) for name in "ab")


def test_a_run_that_is_killed_goes_on_bit_for_bit_and_can_be_exported(
    server: Server,
    store: Store,
    store_folder: Path,
    data_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is killed when it begins to save step 8, which it has logged and evaluated by then; the next one makes it again.

    Of the checkpoint that it goes on from one shard is only in the store, and all else in the memory of the node.
    """
    memory = tmp_path / "memory"

    def start(name: str) -> Processes:
        config = run_config(checkpoints=Path("/nowhere"), data_cache=data_cache, steps=8)
        config["checkpoint"] |= {"directory": store.url, "endpoint": server.endpoint}
        config["data"]["audit"] = True
        config["checkpoint"]["memory"] = {"directory": str(memory), "bytes": 2**30}
        return start_training(config, world_size=2, folder=tmp_path / name, environ=CREDENTIALS | ALONE)

    killed: list[str] = []

    def kill(method: str, path: str) -> str | None:
        if "step-00000008" in path and not killed:
            running.send(signal.SIGSTOP)  # or one would see that the other is gone, and end by itself
            running.send(signal.SIGKILL)
            killed.append(path)
        return "refused" if killed else None

    server.hook = kill
    running = start("killed")
    assert [rank.exit_code for rank in running.wait()] == [-9, -9], running.outputs()
    server.hook = lambda method, path: None
    newest = load.newest_whole(store, Manifests(store), look(store))
    assert newest is not None
    (memory / newest.manifest.files["__1_0.distcp"]["sha256"]).unlink()
    ended = start("resumed").wait()

    assert [rank.exit_code for rank in ended] == [0, 0], ended[0].output
    said, before = report(tmp_path / "resumed"), report(tmp_path / "killed")
    assert said["resumedStep"] == 4
    assert said["resumedFrom"].startswith(f"{store.url}/step-00000004.00000001-")
    assert said["checkpoint"]["verified"]
    in_store = newest.manifest.files["__1_0.distcp"]["bytes"]
    assert said["restoredBytes"] == {"memory": newest.manifest.bytes - in_store, "peer": 0, "volume": in_store}
    for field in ("chain", "loss", "validationLoss", "position"):
        assert said[field] == before[field], field
    curve = losses(running.output(0))
    assert sorted(curve) == list(range(1, 9))
    assert losses(ended[0].output) == {step: loss for step, loss in curve.items() if step > 4}

    where = [store.url, "--endpoint", store.endpoint]
    capsys.readouterr()
    assert audit_command([*where, "--json", "--at", "8"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert (proof["step"], proof["audited"], proof["starts"], proof["counted"]) == (8, 8, 2, 2)
    assert proof["chain_at"] == [8, said["chain"]]
    parts = [key for key in store.sizes() if key.startswith("audit/") and "/rank-00001.ids/" in key]
    assert len(parts) == 3, "one for each save, also for the one that the killed start had only begun"
    store.delete(key for key in parts if key.endswith("/000000000000"))
    assert audit_command([*where, "--json"]) == 2
    assert "rank-00001.ids can't be read" in capsys.readouterr().out
    assert export_command([*where, str(tmp_path / "hf"), "--tokenizer", str(store_folder / "tokenizer.json")]) == 0
    exported = load_file(tmp_path / "hf" / "model.safetensors")["model.embed_tokens.weight"]
    found = load.newest_whole(store, Manifests(store), look(store))
    assert found is not None
    read = {"model": {"model.embed_tokens.weight": torch.zeros_like(exported)}}
    transfer.read(read, store, found.path, found.manifest.files)
    assert torch.equal(read["model"]["model.embed_tokens.weight"], exported)
