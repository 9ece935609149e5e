"""Imports that last: what transformers reads, it reads once; and nothing is left behind by it."""

from __future__ import annotations

import gc
import importlib.util
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


@pytest.mark.parametrize(
    ("source", "printed"),
    [(ONCE, "read a|read b|True True"), (OTHER, "a|b|a|b|True True")],
    ids=["each folder once", "another version"],
)
def test_what_is_read_once_is_remembered(tmp_path: Path, source: str, printed: str) -> None:
    (tmp_path / "transformers" / "utils").mkdir(parents=True)
    for package in ("transformers", "transformers/utils"):
        (tmp_path / package / "__init__.py").touch()
    reader = tmp_path / "transformers" / "utils" / "import_utils.py"
    reader.write_text(f"from functools import lru_cache\n{source}")
    command = [sys.executable, "-c", READ]
    env = {"PYTHONPATH": _path(tmp_path)}
    ran = subprocess.run(command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.stdout.strip().replace("\n", "|") == printed, ran.stderr


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


def _path(first: Path) -> str:
    import deepseek_trainer

    return f"{first}:{Path(deepseek_trainer.__file__).parents[1]}"
