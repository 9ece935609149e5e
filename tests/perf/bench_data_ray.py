"""Ray Data as the whole pipeline (`support.raypipeline`) beside ours: Ray tasks into the token store, order and packing computed.

Both tokenise, filter and pack the same 16 files of JSON lines with the same vocabulary on the same Ray cluster of a head and two nodes
of one processor each, one after the other. Each way has a rank of its own, a process that has imported torch; seconds
count from there, memory is the greatest sum over the rank, the cluster and its object stores (proportional set sizes).

first batch, shuffled     ours from the whole store; theirs from the rows in the object store, after `random_shuffle`
first batch, streamed     ours by mode Dynamic's way, of the first shard; theirs with a shuffle buffer of 1,000 rows
second epoch              its first batch; theirs keeps the packed rows, or would tokenise again
distance moved            by the shuffle: ours of an epoch, theirs by that buffer, as `random_shuffle` is a full one
going on at half          of an epoch, in a new process; theirs has no state to go on from, so it prepares and skips
lost, repeated            one of two consumers is killed that have committed what they had trained each 16 batches. Ours is a
                          rank that is started again. Of theirs one goes on alone (what nobody has trained then is lost), or all begin
                          anew, as synchronous training has to (what was committed comes again)
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import corpora, preparation, prepare, samples
from deepseek_trainer.data.dynamic.leases import Lease
from deepseek_trainer.data.dynamic.shards import Cutting, open_shard
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.loader import Loader
from deepseek_trainer.data.samples import Samples
from deepseek_trainer.data.store import open_store
from deepseek_trainer.raycluster import session
from deepseek_trainer.raycluster.executor import RayExecutor
from support import raypipeline
from support.bench_table import Row
from support.eventually import eventually
from support.raynodes import RayCluster
from support.shuffling import quality

GCS = 26000
FILES, FILE_BYTES = 16, 2**20
LENGTH, BATCH = 512, 8
COMMIT_BATCHES, PACE_S, KILLED_AFTER = 16, 0.005, 5
BUFFER, STRETCH = 1000, 64
DEADLINE_S = 300.0
GOES_ON_S = 30.0
"""For the consumer that is left to come to its end."""


def rows() -> Iterator[Row]:
    """Both ways."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        _write_corpus(folder / "corpus")
        cluster = RayCluster(folder, GCS)
        try:
            cluster.start(nodes=2)
            run = {way: _run(way, folder, cluster) for way in ("ours", "theirs")}
            lost = _killed_ours(folder, cluster), _run("killed", folder, cluster)[0]
        finally:
            cluster.end()
    (ours, our_mib), (theirs, their_mib) = run["ours"], run["theirs"]
    against = "Ray Data"
    ours["speed"], theirs["speed"] = (said["tokens"] / said["first_s"] for said in (ours, theirs))
    yield Row("preparation to a shuffled batch", ours["speed"], theirs["speed"], "tokens/s", "higher", against)
    for what, key in (
        ("first batch, streamed", "streamed_s"),
        ("second epoch", "second_s"),
        ("going on at half of an epoch", "half_s"),
    ):
        yield Row(what, ours[key], theirs[key], "s", "lower", against)
    yield Row("memory of Ray and a rank, at most", our_mib, their_mib, "MiB", "lower", against)
    yield Row("mixing: distance moved / full shuffle's", ours["moved"], theirs["moved"], "", "higher", "its buffer")
    yield Row("killed: documents lost", lost[0]["lost"], lost[1]["lost"], "", "lower", "streaming_split")
    yield Row("killed: documents repeated", lost[0]["repeated"], lost[1]["repeated"], "", "lower", "streaming_split")


def _write_corpus(folder: Path) -> None:
    folder.mkdir()
    with corpora.find("gcide", os.environ).open() as lines:
        for number in range(FILES):
            records = [json.loads(line) for line in lines.readlines(FILE_BYTES)]
            numbered = [{"id": number * 100_000 + place, **record} for place, record in enumerate(records)]
            text = "".join(json.dumps(record) + "\n" for record in numbered)
            (folder / f"{number:02}.jsonl").write_text(text)


# -- in the bench: ranks, killed and watched --------------------------------------------------------------------------------


def _start(way: str, folder: Path, cluster: RayCluster) -> subprocess.Popen[str]:
    path = os.pathsep.join(part for part in sys.path if part)
    environ = {**os.environ, **cluster.environment(), "PYTHONPATH": path, "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    errors = (folder / f"{way}.log").open("w")
    with errors:
        return subprocess.Popen(
            [sys.executable, __file__, way, str(folder)], env=environ, stdout=subprocess.PIPE, stderr=errors, text=True
        )


def _run(way: str, folder: Path, cluster: RayCluster) -> tuple[dict[str, float], float]:
    """What a rank has measured, and the memory of all in MiB."""
    process, over, most = _start(way, folder, cluster), threading.Event(), [0.0]

    def watch() -> None:
        while not over.wait(0.5):
            most[0] = max(most[0], _memory_mib(os.getpid()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        over.set()
        watching.join()
    if process.returncode:
        sys.exit(f"the rank {way} failed:\n{(folder / f'{way}.log').read_text()[-3000:]}")
    return json.loads(output.splitlines()[-1]), most[0]


def _killed_ours(folder: Path, cluster: RayCluster) -> dict[str, float]:
    committed = folder / "ours-0"
    first = _start("rank", folder, cluster)
    eventually(lambda: len(_batches(committed)) >= KILLED_AFTER, deadline_s=DEADLINE_S)
    first.kill()
    first.communicate()
    _run("rank", folder, cluster)
    trained = [number for batch in _batches(committed) for number in batch]
    return {"lost": _data(folder)[0].training - len(set(trained)), "repeated": len(trained) - len(set(trained))}


def _batches(committed: Path) -> list[list[int]]:
    lines = committed.read_text().split("\n")[:-1] if committed.exists() else []
    return [json.loads(line) for line in lines]


def _memory_mib(root: int) -> float:
    """Of all descendants."""
    sum_kib, todo = 0, [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
            if pid != root:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                sum_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return sum_kib / 1024


# -- in a rank: ours -----------------------------------------------------------------------------------------------------


def _config(folder: Path, **data: Any) -> RunConfig:
    training = {"steps": 1, "globalBatchSize": BATCH, "microBatchSize": BATCH, "sequenceLength": LENGTH}
    return RunConfig.model_validate(
        {
            "job": "bench",
            "trainer": {"training": training, "tokenizer": {"kind": "deepseek"}},
            "data": {"path": str(folder / "corpus"), "batching": {"mode": "Packed"}, **data},
            "dataCache": str(folder / "cache"),
        }
    )


def _data(folder: Path) -> tuple[Samples, Ledger]:
    config = _config(folder)
    data = samples.of(config, open_store(prepare.prepare(config, os.environ, RayExecutor(os.environ))))
    fingerprint = data.store.info.fingerprint
    return data, Ledger.of(config, fingerprint=fingerprint, samples=data.training, layout=data.layout)


def _loader(data: Samples, ledger: Ledger, first: int, last: int) -> Loader:
    def batches(number: int, count: int) -> Any:
        return replace(ledger, step=number).batches(count)

    return Loader(data, batches, first=first, last=last, rank=0, world_size=1, device=torch.device("cpu"))


def _first_batch(data: Samples, ledger: Ledger, first: int) -> None:
    with closing(_loader(data, ledger, first, first + 4)) as loader:
        loader.step(first)
        loader.micro_batch()


def _ours(folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    data, ledger = _data(folder)
    _first_batch(data, ledger, 0)
    first_s = time.perf_counter() - began
    steps = data.training // BATCH
    second_s = _seconds(lambda: _first_batch(data, ledger, steps))
    half_s = _seconds(lambda: _first_batch(*_data(folder), steps // 2))
    order = ledger.order(0)[np.arange(data.training)]
    return {
        "tokens": data.store.info.tokens - data.store.info.documents,
        "first_s": first_s,
        "second_s": second_s,
        "half_s": half_s,
        "streamed_s": _seconds(lambda: _first_shard(_config(folder, mode="Dynamic", batching={}))),
        "moved": quality(order, batch=BATCH, stretch=STRETCH).displacement,
    }


def _first_shard(config: RunConfig) -> None:
    """What a rank of mode Dynamic does before it has a batch."""
    wanted = preparation.plan(config, os.environ, config.data.dynamic.shard_bytes)
    wanted.work.mkdir(parents=True)
    prepare.provide_tokenizer(wanted)
    shard = open_shard(Lease(0), wanted.parts[0], Cutting.of(config, "f" * 64))
    shard.rows.collate(shard.order[:BATCH])


def _rank(folder: Path) -> dict[str, float]:
    """Trains an epoch, from what was committed on."""
    data, ledger = _data(folder)
    committed = folder / "ours-0"
    first = sum(len(batch) for batch in _batches(committed)) // BATCH
    last = -(-data.training // BATCH)
    trained: list[int] = []
    with closing(_loader(data, ledger, first, last)) as loader, committed.open("a") as file:
        for number in range(first, last):
            loader.step(number)
            loader.micro_batch()
            time.sleep(PACE_S)
            batch = replace(ledger, step=number).batch()
            trained += batch.samples[batch.epochs == 0].tolist()
            if (number + 1) % COMMIT_BATCHES == 0 or number + 1 == last:
                file.write(json.dumps(trained) + "\n")
                file.flush()
                trained = []
    return {}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# -- in a rank: theirs ---------------------------------------------------------------------------------------------------


def _pipeline(folder: Path) -> Any:
    vocabulary = next(folder.glob("cache/*/tokenizer.json"))
    return raypipeline.of(str(folder / "corpus"), str(vocabulary), LENGTH)


def _tensors(dataset: Any) -> Iterator[torch.Tensor]:
    for batch in dataset.iter_batches(batch_size=BATCH):
        yield torch.from_numpy(np.stack(batch["tokens"]))


def _theirs(folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    session.connect(os.environ)
    connected_s = time.perf_counter() - began
    packed = _pipeline(folder).materialize()
    next(_tensors(packed.random_shuffle(seed=1)))
    first_s = time.perf_counter() - began
    began = time.perf_counter()
    batches = _tensors(packed.random_shuffle(seed=2))
    next(batches)
    second_s = time.perf_counter() - began
    count, tokens = packed.count(), packed.sum("used")
    skip_s = _seconds(lambda: sum(1 for _ in itertools.islice(batches, count // BATCH // 2)))
    began = time.perf_counter()
    stream = iter(_pipeline(folder).iter_batches(batch_size=BATCH, local_shuffle_buffer_size=BUFFER))
    found = [next(stream)]
    streamed_s = connected_s + time.perf_counter() - began
    found += stream
    first = np.array([min(documents) for batch in found for documents in batch["documents"]])
    order = np.argsort(np.argsort(first, kind="stable"))
    return {
        "tokens": tokens,
        "first_s": first_s,
        "second_s": second_s,
        "half_s": first_s + skip_s,
        "streamed_s": streamed_s,
        "moved": quality(order, batch=BATCH, stretch=STRETCH).displacement,
    }


def _killed_theirs(folder: Path) -> dict[str, float]:
    session.connect(os.environ)
    import ray

    packed = _pipeline(folder).materialize()
    everything = {number for row in packed.iter_rows() for number in row["documents"]}
    files = [folder / f"theirs-{number}" for number in range(2)]

    class Consumer:
        def train(self, batches: Any, file: str) -> None:
            trained: list[int] = []
            with open(file, "a") as committed:
                for number, batch in enumerate(batches.iter_batches(batch_size=BATCH), start=1):
                    time.sleep(PACE_S)
                    trained += [document for row in batch["documents"] for document in row.tolist()]
                    if number % COMMIT_BATCHES == 0:
                        committed.write(json.dumps(trained) + "\n")
                        committed.flush()
                        trained = []
                committed.write(json.dumps(trained) + "\n")

    consumers = [ray.remote(num_cpus=0)(Consumer).remote() for _ in files]
    splits = packed.streaming_split(2)
    answers = [
        consumer.train.remote(split, str(file)) for consumer, split, file in zip(consumers, splits, files, strict=True)
    ]
    eventually(lambda: len(_batches(files[0])) >= KILLED_AFTER, deadline_s=DEADLINE_S)
    ray.kill(consumers[0])
    repeated = len({number for file in files for batch in _batches(file) for number in batch})
    ray.wait(answers[1:], timeout=GOES_ON_S)
    trained = {number for file in files for batch in _batches(file) for number in batch}
    return {"lost": len(everything - trained), "repeated": repeated}


WAYS: dict[str, Callable[[Path], dict[str, float]]] = {
    "ours": _ours,
    "rank": _rank,
    "theirs": _theirs,
    "killed": _killed_theirs,
}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]))))
