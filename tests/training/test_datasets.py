"""data.dataset: what the Hugging Face library reads is prepared as any other source; what it can't read is named."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import pytest
from deepseek_trainer.contract import ExitCode
from deepseek_trainer.data import processes, store
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.errors import DataError, TrainerError, UnavailableError
from support.corpora import TEXTS, config, texts_of, write
from support.hubserver import handler

pytestmark = pytest.mark.training


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with each kind of dataset."""
    rows = datasets.Dataset.from_dict({"id": range(len(TEXTS)), "text": list(TEXTS)})
    rows.save_to_disk(tmp_path / "one")
    rows.shuffle(seed=1).select(range(3)).save_to_disk(tmp_path / "shuffled")
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "splits")
    write(tmp_path / "files" / "train.jsonl")
    write(tmp_path / "files" / "test.jsonl", ["Only this."])
    return tmp_path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads in this process, where it is imported already, and keeps what it makes in a folder of the test's."""

    def run_here(work: Callable[..., None], *arguments: object, environ: Mapping[str, str]) -> None:
        assert environ.keys() == {"HF_HOME"}
        work(*arguments)

    monkeypatch.setattr(processes, "run_apart", run_here)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "huggingface"))


def made(saved: Path, **dataset: Any) -> list[str]:
    folder = prepare(config(None, saved / "stores", dataset=dataset), {})
    assert not [child.name for child in (saved / "stores").iterdir() if child.name.startswith(".")]
    return texts_of(store.open_store(folder))


@pytest.mark.parametrize("name", ["one", "splits", "files"])
def test_each_kind_of_folder_is_read(saved: Path, name: str) -> None:
    assert made(saved, name=str(saved / name)) == list(TEXTS)


@pytest.mark.usefixtures("here")
def test_a_split_is_what_was_asked_for(saved: Path) -> None:
    assert made(saved, name=str(saved / "splits"), split="test") == [TEXTS[0]]
    assert made(saved, name=str(saved / "files"), split="test") == ["Only this."]
    assert made(saved, name=str(saved / "files"), split="train[:50%]") == list(TEXTS[:3])


@pytest.mark.usefixtures("here")
def test_chosen_rows_are_read_and_no_others(saved: Path) -> None:
    assert len(made(saved, name=str(saved / "shuffled"))) == 3


@pytest.mark.usefixtures("here")
def test_a_dataset_that_did_not_change_is_not_prepared_again(saved: Path) -> None:
    wanted = config(None, saved / "stores", dataset={"name": str(saved / "one")})
    first = prepare(wanted, {})
    written = (first / "manifest.json").stat().st_mtime_ns
    assert prepare(wanted, {}) == first
    assert (first / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ({"name": "/nowhere/at/all"}, "data.dataset.name /nowhere/at/all: no such folder; mount the volume"),
        ({"name": "splits", "split": "dev"}, "correct name, config, split or revision"),
        ({"name": "files", "split": "dev"}, 'Unknown split "dev"'),
        ({"name": "files", "config": "none"}, "correct name, config, split or revision"),
        ({"name": "script"}, "correct name, config, split or revision"),
        ({"name": "files"}, "no column 'body'; it has 'id', 'text'; name the right one in data.textField"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_dataset_that_can_not_be_read_is_named(saved: Path, dataset: dict[str, Any], says: str) -> None:
    (saved / "script").mkdir()
    (saved / "script" / "script.py").write_text("raise SystemExit('code of a dataset was run')")
    name = dataset["name"] if dataset["name"].startswith("/") else str(saved / dataset["name"])
    with pytest.raises(TrainerError) as refused:
        prepare(config(None, saved / "stores", dataset=dataset | {"name": name}, textField="body"), {})
    assert says in str(refused.value)
    assert name in str(refused.value)
    assert refused.value.exit_code is ExitCode.DATA_ERROR


@pytest.mark.usefixtures("here")
def test_conversations_of_a_dataset(saved: Path) -> None:
    talk = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    (saved / "talks").mkdir()
    (saved / "talks" / "train.jsonl").write_text((json.dumps({"messages": talk}) + "\n") * 2)
    told = {"dataset": {"name": str(saved / "talks")}, "chat": {"template": "DeepSeek"}}
    opened = store.open_store(prepare(config(None, saved / "stores", **told), {}))
    assert opened.info.documents == 2
    assert opened.targets is not None
    assert 0 < opened.targets.sum() < opened.info.tokens


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """A hub's address, the files of org/data on it, and what it was asked."""
    files = {"train.jsonl": b'{"text": "from the hub"}\n' * 5, "README.md": b"# data\n"}
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler("org/data", files, asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files, asked
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_fetched_once_and_kept_to(
    hub: tuple[str, dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, files, asked = hub
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HOME", raising=False)
    assert made(tmp_path, name="org/data") == ["from the hub"] * 5
    assert not (tmp_path / "home").exists(), "nothing is left behind in the container"
    assert not [line for line in asked if line.startswith("GET") and line.endswith(".py")], "no code is fetched"

    files["train.jsonl"] = b'{"text": "pushed meanwhile"}\n'
    asked.clear()
    assert made(tmp_path, name="org/data") == ["from the hub"] * 5
    assert not asked, "a job that starts again needs no hub"

    with pytest.raises(DataError, match=r"data\.dataset org/none: .* a private one needs HF_TOKEN"):
        made(tmp_path, name="org/none")


def test_a_hub_that_is_out_of_reach_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnavailableError, match=r"org/data: the hub is out of reach: .* put the dataset on a volume"):
        made(tmp_path, name="org/data")
