"""The data plane beside other libraries, on the same data, in one run: all of `bench_data_*.py`.

    python tests/perf/bench_data.py [PART …]

Each part has a `rows()`, which measures and gives its comparisons. Prints a table and ends with one line: `ahead …` or
`behind in …`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from support.bench_table import Row, table, verdict

HERE = Path(__file__).parent


def parts() -> list[str]:
    """Names of the parts that there are."""
    return sorted(path.stem.removeprefix("bench_data_") for path in HERE.glob("bench_data_*.py"))


def main() -> int:
    options = argparse.ArgumentParser(description="The data plane beside other libraries.")
    options.add_argument("part", nargs="*", help=f"of {', '.join(parts())}; default: all")
    chosen = options.parse_args().part or parts()
    if unknown := set(chosen) - set(parts()):
        options.error(f"no such part: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for part in chosen:
        print(f"measuring: {part}", flush=True)
        rows += importlib.import_module(f"bench_data_{part}").rows()
    print(table(rows))
    print(verdict(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
