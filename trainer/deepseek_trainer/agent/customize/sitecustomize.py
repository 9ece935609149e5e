"""Python imports this before a training process' own code, which stays exactly what the user wrote.

It readies the process to show its stacks, takes itself out of the way, and lets another sitecustomize have its turn.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys


def _begin() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    with contextlib.suppress(ImportError):  # a training process without stacks is still one
        from deepseek_trainer.agent.stacks import register

        register(os.environ)
    own = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")  # the next one on the path
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if own is not None:
            sys.modules["sitecustomize"] = own


if __name__ == "sitecustomize":
    _begin()
