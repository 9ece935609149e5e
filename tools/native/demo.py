"""What tools/demo-cluster.sh applies: the example as users have it, with this cluster's image, volume and length.

usage: python -m native.demo job EXAMPLE.yaml --steps N [--image IMAGE]
       python -m native.demo volume CLAIM FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from native import volumes
from native.errors import NativeError, main_of


def job(example: Path, steps: int, image: str, folder: str) -> dict[str, Any]:
    """The example's manifest with another length, another image if one is given, and a checkpoint folder of its own.

    Without that folder a second demo would go on from the first one's end, and have nothing to do.
    """
    if steps < 2:
        raise NativeError(f"{steps} steps: ask for 2 or more, so that there is a checkpoint to resume from")
    manifest: dict[str, Any] = yaml.safe_load(example.read_text())
    spec = manifest["spec"]
    spec["trainer"]["training"]["steps"] = steps
    spec["trainer"]["optimizer"]["warmupSteps"] = max(steps // 10, 1)
    spec["trainer"]["evaluation"]["everySteps"] = max(steps // 4, 1)
    spec["checkpoint"]["interval"]["steps"] = max(steps // 10, 1)
    spec["checkpoint"]["volume"]["subPath"] = folder
    if image:
        spec["workers"]["image"] = image
    return manifest


def _main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.verb == "job":
        folder = f"{options.example.stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        print(json.dumps(job(options.example, options.steps, options.image, folder)))
    else:
        volumes.create_folder(options.folder)
        items = volumes.shared("default", options.claim, str(options.folder))
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="native.demo", description="Prints manifests for the demo on a cluster.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_job = verbs.add_parser("job")
    of_job.add_argument("example", type=Path)
    of_job.add_argument("--steps", type=int, required=True)
    of_job.add_argument("--image", default="")
    of_volume = verbs.add_parser("volume")
    of_volume.add_argument("claim")
    of_volume.add_argument("folder", type=Path)
    return parser


if __name__ == "__main__":
    main_of(_main)
