"""What holds for every test: how properties are explored, and in how many threads is computed.

A gate must answer the same for the same commit, so CI explores a fixed set of examples; everywhere else each run
explores new ones, and a failure found there becomes an @example beside its property. No example fails for its time.

What tests compute is small: OpenMP's threads would spend most of their time waiting for each other, and spin while
they do. On a busy machine that was twenty times the processor time of the same tests with one thread.
"""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch or numpy
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
