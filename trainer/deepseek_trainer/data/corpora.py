"""Named corpora: real text with a pinned version and hash, fetched as data when no copy is at hand.

    python -m deepseek_trainer.data.corpora fetch chitchat [--to DIR]

A corpus lies in a folder as `<name>-<version>.jsonl`, one document a line, and its bytes are pinned: a copy that
an image carries, one in the cache and one that was just fetched are the same, or are refused. Looked up in this
order: the folders of $DEEPSEEKJOB_CORPORA, the image's, the cache, and then the registry that has the package.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer.contract import Paths
from deepseek_trainer.errors import DataError

FETCH_TIMEOUT_S = 300
_CHITCHAT_UTTERANCES = 258_145


@dataclass(frozen=True)
class Corpus:
    """One named corpus.

    Attributes:
        package_sha256: of the file inside the package that the text is taken from, or of the package itself.
        sha256: of the extracted .jsonl file.
    """

    name: str
    version: str
    package_sha256: str
    sha256: str
    download: Callable[[Corpus, Path], Path]
    documents: Callable[[Path], Iterator[str]]

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.jsonl"


def find(name: str, environ: Mapping[str, str]) -> Path:
    """The file of a corpus, fetched into the cache if there is no copy.

    Raises:
        DataError: the corpus is unknown, a copy of it is damaged, or it could not be fetched.
    """
    corpus = get(name)
    for folder in folders(environ):
        path = folder / corpus.file_name
        if path.is_file():
            _check(corpus, path)
            return path
    return fetch(corpus, cache(environ))


def get(name: str) -> Corpus:
    if name not in CORPORA:
        raise DataError(f"corpus {name}: unknown; there are {', '.join(CORPORA)}")
    return CORPORA[name]


def folders(environ: Mapping[str, str]) -> list[Path]:
    """Where copies are looked for, in order."""
    chosen = [Path(part) for part in environ.get("DEEPSEEKJOB_CORPORA", "").split(os.pathsep) if part]
    return [*chosen, Path(Paths.CORPORA), cache(environ)]


def cache(environ: Mapping[str, str]) -> Path:
    base = environ.get("DEEPSEEKJOB_CACHE")
    if not base:
        base = str(Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepseekjob")
    return Path(base) / "corpora"


def fetch(corpus: Corpus, folder: Path) -> Path:
    """Downloads a corpus and extracts its text into `folder`; whole or not at all.

    Raises:
        DataError: it could not be had, or is not what was pinned.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{corpus.name}-") as scratch:
            package = corpus.download(corpus, Path(scratch))
            if _sha256(package) != corpus.package_sha256:
                raise DataError(f"corpus {corpus.name}: {package.name} is not the pinned version {corpus.version}")
            extracted = Path(scratch) / corpus.file_name
            with extracted.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}) + "\n" for text in corpus.documents(package))
            _check(corpus, extracted)
            return extracted.replace(folder / corpus.file_name)
    except OSError as error:
        raise DataError(f"corpus {corpus.name}: {folder}: {error.strerror}; set DEEPSEEKJOB_CACHE") from error


def _check(corpus: Corpus, path: Path) -> None:
    if (found := _sha256(path)) != corpus.sha256:
        raise DataError(
            f"corpus {corpus.name}: {path} has sha256 {found[:12]}, {corpus.sha256[:12]} was expected; delete the file"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(corpus: Corpus, command: list[str], folder: Path) -> None:
    remedy = (
        f"copy {corpus.file_name} into a folder named by DEEPSEEKJOB_CORPORA "
        f"(made elsewhere by: python -m deepseek_trainer.data.corpora fetch {corpus.name} --to DIR)"
    )
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"corpus {corpus.name}: {command[0]}: {error}; {remedy}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise DataError(f"corpus {corpus.name}: could not be fetched: {lines[-1]}; {remedy}")


# ---- chitchat: dialogues between people, MIT licence -------------------------------------------------------------


def _download_wheel(corpus: Corpus, scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip3") or "pip"]
    requirement = f"chitchat-dataset=={corpus.version}"
    _run(corpus, [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", requirement], scratch)
    return next(scratch.glob("*.whl"))


def _chitchat_documents(wheel: Path) -> Iterator[str]:
    """A conversation a document: an utterance a line, an empty line where the other person goes on."""
    with zipfile.ZipFile(wheel) as archive:
        conversations = json.loads(archive.read("chitchat_dataset/dataset.json"))
    utterances = 0
    for conversation in conversations.values():
        turns = [[utterance["text"] for utterance in turn] for turn in conversation["messages"]]
        utterances += sum(map(len, turns))
        yield "\n\n".join("\n".join(turn) for turn in turns)
    if utterances != _CHITCHAT_UTTERANCES:
        raise DataError(f"corpus chitchat: {utterances:,} utterances, {_CHITCHAT_UTTERANCES:,} were expected")


# ---- gcide: the Collaborative International Dictionary of English, GPL ---------------------------------------------


def _download_deb(corpus: Corpus, scratch: Path) -> Path:
    _run(corpus, ["apt-get", "download", "--quiet", f"dict-gcide={corpus.version}"], scratch)
    _run(corpus, ["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), str(scratch)], scratch)
    return scratch / "usr" / "share" / "dictd" / "gcide.dict.dz"


def _gcide_documents(dictionary: Path) -> Iterator[str]:
    """A headword a document. The few bytes that are not UTF-8 become U+FFFD."""
    with gzip.open(dictionary) as file:  # dictzip is gzip with an index in its header
        text = file.read().decode("utf-8", errors="replace")
    yield from (entry for entry in re.split(r"\n\n(?=\S)", text) if entry.strip())


CORPORA: Mapping[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="chitchat",
            version="0.9.0",
            package_sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
            sha256="f947f7d8dc902b921164e9713787b79362108741a3ee1c40c99c84af57abb293",
            download=_download_wheel,
            documents=_chitchat_documents,
        ),
        Corpus(
            name="gcide",
            version="0.48.5+nmu2",
            package_sha256="3e6b2cdcbc1b3664c2f1466e3c8e44012e815c4c67fa83fa61f39777cd6e8517",
            sha256="09078d87e26b9ffb18d7a8516782400c2abfc3000083ccf6632e4c98edbd306b",
            download=_download_deb,
            documents=_gcide_documents,
        ),
    )
}


def main(arguments: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m deepseek_trainer.data.corpora", description="Named corpora.")
    verb = parser.add_subparsers(required=True).add_parser("fetch", help="download and extract a corpus")
    verb.add_argument("name", choices=sorted(CORPORA))
    verb.add_argument("--to", type=Path, default=cache(os.environ), help="folder; default: the cache")
    options = parser.parse_args(arguments)
    corpus = get(options.name)
    target = options.to / corpus.file_name
    try:
        if target.is_file():
            _check(corpus, target)
        else:
            target = fetch(corpus, options.to)
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
