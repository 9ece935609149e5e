"""Wheels and corpora for image builds that need no network: fetched on the host, cached by the lock they follow."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from native.binaries import cache_root
from native.errors import run

REPOSITORY = Path(__file__).parents[2]
BUILD_BACKEND = "hatchling==1.28.0"
TORCH = "torch==2.13.0"


def torch_wheels() -> list[Path]:
    """Local builds of torch ($TORCH_WHEELS, default ../shared/wheels), the same that tools/install.sh takes."""
    folder = Path(os.environ.get("TORCH_WHEELS") or REPOSITORY / "../shared/wheels")
    return sorted(folder.glob("torch-*.whl"))


def wheels(project: str) -> Path:
    """A folder with every wheel that the project's image installs.

    Raises:
        NativeError: the package index could not be reached, or has no wheel for this machine.
    """
    lock = REPOSITORY / project / "requirements.lock"
    local = torch_wheels() if project == "trainer" else []
    key = hashlib.sha256(lock.read_bytes() + BUILD_BACKEND.encode() + repr([path.name for path in local]).encode())
    folder = cache_root() / "images" / f"wheels-{project}-{key.hexdigest()[:16]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="scratch-") as scratch:
        target = Path(scratch) / "wheels"
        download = [str(_pip()), "download", "--quiet", "--only-binary=:all:", "--dest", str(target)]
        run([*download, "--no-deps", "--require-hashes", "-r", str(lock)], what=f"wheels of {project}", timeout_s=1800)
        run([*download, BUILD_BACKEND], what="the build backend")
        if project == "trainer":
            links = [f"--find-links={path.parent}" for path in local[:1]]
            deps = ["--no-deps"] if local else []  # the index's build brings CUDA, which the lock leaves out
            run([*download, *links, *deps, TORCH], what="torch", timeout_s=3600)
        target.rename(folder)
    return folder


def corpus(name: str) -> Path:
    """A folder with the named corpus, in the cache."""
    folder = cache_root() / "corpora"
    run([sys.executable, "-m", "deepseek_trainer.data.corpora", "fetch", name, "--to", str(folder)], what=name)
    return folder


def _pip() -> Path:
    """Pip in an environment of its own: the project's has none."""
    home = cache_root() / "images" / "pip"
    if not (home / "bin" / "pip").exists():
        shutil.rmtree(home, ignore_errors=True)
        uv = run([str(REPOSITORY / "tools" / "uv.sh")]).strip()
        run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(home)], what="an environment for pip")
    return home / "bin" / "pip"
