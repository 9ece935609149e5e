"""How torch and transformers are imported: a third of what they cost is collecting and reading for nothing."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

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
    """Has transformers read the sources of its models once.

    It reads a file of each of its 550 folders for an index of names, remembers 128 of them, and soon reads all again.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _READER or (spec := PathFinder.find_spec(name, path, target)) is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_widen(module: ModuleType) -> None:
            execute(module)
            read = getattr(getattr(module, _READS_A_FOLDER, None), "__wrapped__", None)
            if read is not None:  # else it is another version, which may do without
                setattr(module, _READS_A_FOLDER, functools.lru_cache(maxsize=None)(read))

        spec.loader.exec_module = execute_and_widen  # type: ignore[method-assign]
        return spec
