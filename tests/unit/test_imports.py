"""Imports that last: what transformers reads, it reads once; and nothing is left behind by it."""

from __future__ import annotations

import gc
import importlib.util
import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest

ONCE = '@lru_cache(maxsize=1)\ndef create_import_structure_from_path(path):\n    print("read", path)\n'
OTHER = "def another_function(path):\n    pass\n"
READ = """
import gc, sys
before = list(sys.meta_path)
from deepseek_trainer import imports
with imports.lasting():
    from transformers.utils import import_utils
read = getattr(import_utils, "create_import_structure_from_path", print)
for path in "abab":
    read(path)
print(sys.meta_path == before, gc.isenabled())
"""


INDEX = """
import os
@lru_cache
def create_import_structure_from_path(path):
    print("read models")
    return {frozenset(): {name: {name} for name in sorted(os.listdir(path))}}
"""
ASK = """
import os
from deepseek_trainer import imports
with imports.lasting():
    from transformers.utils import import_utils
models = os.path.join(os.path.dirname(os.path.dirname(import_utils.__file__)), "models")
found = import_utils.create_import_structure_from_path(models)
assert found == import_utils.create_import_structure_from_path(os.path.join(models, "__init__.py"))
print(*found[frozenset()])
"""


@pytest.mark.parametrize(
    ("source", "printed"),
    [(ONCE, "read a|read b|True True"), (OTHER, "a|b|a|b|True True")],
    ids=["each folder once", "another version"],
)
def test_what_is_read_once_is_remembered(tmp_path: Path, source: str, printed: str) -> None:
    _install(tmp_path, source)
    assert _run(tmp_path, READ) == printed


def test_the_index_of_all_models_is_read_once_an_installation(tmp_path: Path) -> None:
    reader = _install(tmp_path, INDEX)
    models = reader.parents[1] / "models"
    assert _run(tmp_path, ASK) == "read models|a"
    assert _run(tmp_path, ASK) == "a", "neither by the next process, nor for the package's own file"

    (models / "b").mkdir()
    os.utime(models, (1, 1))  # an installation of another moment
    assert _run(tmp_path, ASK) == "read models|a b"
    reader.write_text(reader.read_text().replace("read models", "read otherwise"))  # another version
    assert _run(tmp_path, ASK) == "read otherwise|a b"
    assert _run(tmp_path, ASK) == "a b"

    (kept,) = tmp_path.rglob("*.names")
    for broken in (b"", kept.read_bytes()[:-5], b"\xff" * 40, marshal.dumps("other")):
        kept.write_bytes(broken)
        assert _run(tmp_path, ASK) == "read otherwise|a b", broken
        assert _run(tmp_path, ASK) == "a b"

    kept.unlink()
    for _ in range(2):
        assert _run(tmp_path, ASK, PYTHONDONTWRITEBYTECODE="1") == "read otherwise|a b"


def test_transformers_still_reads_in_this_way() -> None:
    """When this fails, look whether a newer transformers needs `_RememberingFinder` any more."""
    found = importlib.util.find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    source = (Path(found.origin).parent / "utils" / "import_utils.py").read_text(encoding="utf-8")
    assert "@lru_cache\ndef create_import_structure_from_path(" in source


def test_a_failed_import_leaves_the_collector_on() -> None:
    from deepseek_trainer import imports

    before = list(sys.meta_path)
    with pytest.raises(ModuleNotFoundError), imports.lasting():
        importlib.import_module("there_is_no_such_module")
    assert gc.isenabled()
    assert sys.meta_path == before


def _install(folder: Path, source: str) -> Path:
    """A transformers of which there is only the reader; its file."""
    package = folder / "transformers"
    for path in (package / "utils", package / "models" / "a"):
        path.mkdir(parents=True)
    for path in (package, package / "utils"):
        (path / "__init__.py").touch()
    reader = package / "utils" / "import_utils.py"
    reader.write_text(f"from functools import lru_cache\n{source}")
    return reader


def _run(folder: Path, program: str, **environ: str) -> str:
    """What a process prints that has the transformers of this folder, and keeps bytecode there too."""
    env = {"PYTHONPATH": _path(folder), "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), **environ}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, check=False, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().replace("\n", "|")


def _path(first: Path) -> str:
    import deepseek_trainer

    return f"{first}:{Path(deepseek_trainer.__file__).parents[1]}"
