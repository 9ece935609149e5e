"""How torch and transformers are imported: a third of what they cost is collecting and reading for nothing.

usage: python -m deepseek_trainer.imports     writes what imports by a user without rights can read (for images)
"""

from __future__ import annotations

import contextlib
import functools
import gc
import marshal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType
from typing import Any

from deepseek_trainer import durable

_READER = "transformers.utils.import_utils"
_READS_A_FOLDER = "create_import_structure_from_path"


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Imports in this block are not collected meanwhile, nor looked at by any later collection.

    That spares a tenth of the CPU time of the imports, most of that of the interpreter's end (a second with
    transformers), and, in forks, copies of the pages that a collection would have written to.
    """
    finder = _RememberingFinder()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.meta_path.remove(finder)


class _RememberingFinder(MetaPathFinder):
    """Has transformers read the sources of its models once an installation.

    It reads 2,000 files in 550 folders for an index of names at each import, and half of them twice.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _READER or (spec := PathFinder.find_spec(name, path, target)) is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_widen(module: ModuleType) -> None:
            execute(module)
            read = getattr(getattr(module, _READS_A_FOLDER, None), "__wrapped__", None)
            if read is not None:  # else it is another version, which may do without
                setattr(module, _READS_A_FOLDER, _Index(read, Path(str(module.__file__))))

        spec.loader.exec_module = execute_and_widen  # type: ignore[method-assign]
        return spec


class _Index:
    """What transformers' reader says of each folder; of all its models also from a file beside our bytecode.

    The file is trusted as bytecode is: whoever may write it may write code. It holds for the path, the age and the
    size of what was read, and is written anew where these differ.
    """

    def __init__(self, read: Callable[[str], Any], reader: Path) -> None:
        self._read = functools.lru_cache(maxsize=None)(read)
        self._models = reader.parents[1] / "models"
        self._reader = reader
        self._file = Path(cache_from_source(__file__)).with_name(f"transformers.{sys.implementation.cache_tag}.names")

    def __call__(self, path: str | Path) -> Any:
        """The index of a folder, or of the folder of a package's __init__.py."""
        folder = Path(path).parent if Path(path).name == "__init__.py" else Path(path)
        return self._of_models if folder == self._models else self._read(str(path))

    @functools.cached_property
    def _of_models(self) -> Any:
        installed = self._installed()
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
            about, names = marshal.loads(self._file.read_bytes())  # noqa: S302 - see above
            if about == installed:
                return names
        names = self._read(str(self._models))
        if not sys.dont_write_bytecode:
            with contextlib.suppress(OSError):  # a read-only installation: they are read again next time
                durable.replace_bytes(self._file, marshal.dumps((installed, names)))
        return names

    def _installed(self) -> tuple[str, int, int, int]:
        models, reader = self._models.stat(), self._reader.stat()
        return str(self._models), int(models.st_mtime), int(reader.st_mtime), reader.st_size


if __name__ == "__main__":
    with lasting():
        import transformers.models  # noqa: F401
