"""What holds for every test: how properties are explored.

A gate must answer the same for the same commit, so CI explores a fixed set of examples; everywhere else each run
explores new ones, and a failure found there becomes an @example beside its property.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
