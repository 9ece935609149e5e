"""What of checkpoints in object stores needs no server: names, manifests, starts on record, which stores are taken at all."""

from __future__ import annotations

from contextlib import suppress

import pytest
from deepseek_trainer.checkpoint.layout import Manifest, Start
from deepseek_trainer.checkpoint.objects import starts
from deepseek_trainer.checkpoint.objects.layout import Save, View, save_named, start_key
from deepseek_trainer.checkpoint.objects.manifests import Manifests, Void, decode, encode
from deepseek_trainer.checkpoint.objects.store import Store, connect, look
from deepseek_trainer.checkpoint.retention import Known, doomed
from deepseek_trainer.config import ConfigError
from deepseek_trainer.errors import DataError, FencedError


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    return connect(f"memory://{request.node.name}")


MANIFEST = Manifest(1, "j", 4, 1, 1, 2, {"step": 4}, {"layers": 1}, {}, {}, 0.1 + 0.2, "2026-01-01T00:00:00Z")


def test_a_key_is_created_once_and_whoever_brings_the_same_hears_that_it_is_his(store: Store) -> None:
    assert store.create("a/b", b"1")
    assert store.create("a/b", b"1")  # as after an answer that was lost
    assert not store.create("a/b", b"2")
    assert (store.read("a/b"), store.read("a/c")) == (b"1", None)
    assert store.sizes() == {"a/b": 1}
    store.delete(["a/b", "a/c"])
    assert store.sizes() == {}


def test_a_stream_that_breaks_leaves_no_object_that_counts(store: Store) -> None:
    with suppress(KeyboardInterrupt), store.writing("part") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    with store.writing("whole") as stream:
        stream.write(b"all")
    assert store.read("whole") == b"all"


def test_saves_are_in_the_order_of_step_and_start() -> None:
    saves = [Save(4, 1, "aa"), Save(4, 2, "00"), Save(40, 1, "aa"), Save(8, 2, "ff")]
    keys = {save.key("manifest.json"): 1 for save in saves} | {
        "step-4.1-aa/x": 1,
        "starts/00000012.json": 1,
        "model/c": 1,
    }
    found = View("s3://b/j", "", keys)
    assert [(save.step, save.start) for save in found.saves()] == [(40, 1), (8, 2), (4, 2), (4, 1)]
    assert found.last_start() == 12
    assert save_named("step-00000004.00000001-aa", "u", "e") == Save(4, 1, "aa", "u", "e")
    assert str(Save(4, 1, "aa", "s3://b/j")) == "s3://b/j/step-00000004.00000001-aa"


def test_a_manifest_comes_back_or_is_known_to_be_damaged() -> None:
    content = encode(MANIFEST)
    assert decode(content) == MANIFEST
    assert decode(encode(Void(7, "2026-01-01T00:00:00Z"))) == Void(7, "2026-01-01T00:00:00Z")
    for place in range(0, len(content), 7):
        flipped = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
        try:
            assert decode(flipped) == MANIFEST  # it was white space
        except (ValueError, TypeError, KeyError):
            continue
    for cut in (b"", b"{}", b"[]", content[:-9]):
        with pytest.raises((ValueError, TypeError, KeyError)):
            decode(cut)


def test_a_manifest_of_another_step_than_its_name_is_refused(store: Store) -> None:
    save = Save(8, 1, "aa", store.url)
    store.put(save.key("manifest.json"), encode(MANIFEST))
    assert Manifests(store).of(save) == "its ledger is at step 4, its weights at 4"


def started(store: Store, job: str, generation: int, *, planned: bool = False) -> int | None:
    last = starts.newest(store, look(store))
    starts.require_current(last, job, generation, store.url)
    start = Start("2026-01-01T00:00:00Z", job, generation, 1, 0, None, f"{job}-{generation}", planned=planned)
    return starts.record(store, last, start)


def test_starts_are_numbered_and_whoever_is_behind_is_refused(store: Store) -> None:
    assert [started(store, "one", generation) for generation in (1, 1, 3)] == [1, 2, 3]
    with pytest.raises(FencedError, match=r"generation 2 must not train on memory://.*: generation 3 trains there"):
        started(store, "one", 2)
    last = starts.newest(store, look(store))
    assert starts.past(last, "one").failures == 2
    assert started(store, "two", 1) == 4  # the job was deleted, and applied anew
    with pytest.raises(FencedError, match=r"another one \(UID two\) has taken its place"):
        started(store, "one", 9)
    assert starts.past(starts.newest(store, look(store)), "two").failures == 0


def test_a_start_after_a_planned_move_is_no_failure(store: Store) -> None:
    for generation, planned in enumerate((False, True, False, True), start=1):
        started(store, "one", generation, planned=planned)
    last = starts.newest(store, look(store))
    assert (last.start, last.count, starts.past(last, "one").failures) == ("one-4", 4, 1)


def test_of_two_starts_at_once_one_gets_the_number(store: Store) -> None:
    last = starts.newest(store, look(store))
    one, other = (Start("2026-01-01T00:00:00Z", "j", 1, 1, 0, None, name) for name in ("one", "other"))
    assert starts.record(store, last, one) == 1
    assert starts.record(store, last, other) is None


def test_a_damaged_start_stops_loudly(store: Store) -> None:
    assert started(store, "one", 1) == 1
    store.put(start_key(1), (store.read(start_key(1)) or b"").replace(b'"generation": 1', b'"generation": 0'))
    with pytest.raises(DataError, match=r"starts/00000001.json is damaged: .*delete that object"):
        started(store, "one", 2)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nowhere://bucket/job", "Protocol not known: nowhere"),
        ("file:///tmp/job", "can't create an object on the condition"),
        ("sftp://server/job", "the image lacks that package"),
    ],
)
def test_a_store_that_can_not_be_one_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        connect(url)
    assert url.partition(":")[0] in str(raised.value)


def test_of_several_good_ones_of_a_step_the_newest_counts() -> None:
    good = Known(4, good=True)
    assert doomed([good, good, Known(2), Known(1, good=True)], keep=2) == [1]
    assert doomed([Known(4), good, Known(2, good=True)], keep=2) == [0]
    assert doomed([Known(4), Known(4), Known(2, good=True, verified=True), Known(1, good=True)], keep=1) == [3]
