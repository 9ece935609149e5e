"""The images that a cluster runs, as archives in the cache: operator, trainer and the pods' pause container.

Rules: an archive's name holds the hash of everything that went into it, so that an unchanged image is not built
again; the builds use the projects' own Containerfiles, with docker where it runs, else with buildah. Where buildah
builds, the base image is made by debootstrap unless $BASE names one: nothing has to be pulled.

usage: python -m native.images [pause|operator|trainer ...]     prints the archives
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from native import archives, binaries, layouts, packages, prefetch
from native.errors import NativeError, main_of, run
from native.node import PAUSE_IMAGE

OPERATOR_IMAGE = "localhost/deepseek-operator:dev"
TRAINER_IMAGE = "localhost/deepseek-trainer:dev"
CORPUS = "chitchat"
_SUITE = "bookworm"
_BASE_PACKAGES = "python3.11,python3-venv,ca-certificates"
_BASE_IMAGE = f"localhost/deepseekjob-base:{_SUITE}"
_BUILD_TIMEOUT_S = 3600.0
_SCRATCH = "scratch-"
_FORMAT = "oci"
_ARCHIVES_KEPT = 2
_LAYERS_MAX = 250
"""Buildah keeps each layer that it ever made, and nothing says which are still of use: with more, it begins anew."""


@dataclass(frozen=True)
class Recipe:
    """One of the project's images."""

    project: str
    tag: str

    @property
    def sources(self) -> list[Path]:
        """Everything of the repository that the image is made of."""
        root = prefetch.REPOSITORY / self.project
        package = root / f"deepseek_{self.project}"
        code = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return [root / "Containerfile", root / "requirements.lock", root / "pyproject.toml", *sorted(code)]


OPERATOR = Recipe("operator", OPERATOR_IMAGE)
TRAINER = Recipe("trainer", TRAINER_IMAGE)


def build() -> list[Path]:
    """Archives of all images, built where they are not cached.

    Raises:
        NativeError: a download or a build failed.
        Unavailable: there is no docker that runs, and buildah needs root or can't be installed.
    """
    return [pause(), build_image(OPERATOR), build_image(TRAINER)]


def pause() -> Path:
    """Archive of the image that holds a pod's namespaces."""
    program = binaries.ensure("pause")["pause"]
    target = _folder() / f"pause-{program.parent.parent.name.rpartition('-')[2]}.tar"
    if not target.exists():
        archives.write_single_binary(target, PAUSE_IMAGE, program)
    return target


def build_image(recipe: Recipe) -> Path:
    """Archive of one of the project's images; of the others those that were asked for last stay."""
    engine = _docker if docker_runs() else _buildah
    base = os.environ.get("BASE", "")
    target = _folder() / f"{recipe.project}-{_key(recipe, engine.__name__ + base)}.tar"
    with _lock():
        if not target.exists():
            print(f"building {recipe.tag}", file=sys.stderr, flush=True)
            for left in _folder().glob(f"{_SCRATCH}*"):  # of a build that was killed; nobody else has the lock
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=_folder(), prefix=_SCRATCH) as scratch:
                context = Path(scratch) / "context"
                _fill_context(context, recipe)
                built = Path(scratch) / "image.tar"
                engine(recipe, context, base, built)
                built.replace(target)
            retire(target, f"{recipe.project}-*.tar")
    return target


def retire(used: Path, pattern: str) -> None:
    """Removes older archives beside one that is used now, but for the last: another checkout may be about to import it."""
    used.touch()
    by_age = sorted(used.parent.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
    for old in by_age[:-_ARCHIVES_KEPT]:
        old.unlink()


def docker_runs() -> bool:
    """Whether a docker daemon answers."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False).returncode == 0


def _fill_context(context: Path, recipe: Recipe) -> None:
    """A copy of what the Containerfile names, with prefetched/ beside it."""
    for source in recipe.sources:
        target = context / source.relative_to(prefetch.REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    folders = [prefetch.wheels(recipe.project)]
    patterns = ["*.whl"]
    if recipe is TRAINER:
        folders.append(prefetch.corpus(CORPUS))
        patterns.append(f"{CORPUS}-*.jsonl")
    prefetched = context / "prefetched"
    prefetched.mkdir()
    for folder, pattern in zip(folders, patterns, strict=True):
        for path in folder.glob(pattern):
            os.link(path, prefetched / path.name)


def _docker(recipe: Recipe, context: Path, base: str, target: Path) -> None:
    chosen = [f"--build-arg=BASE={base}"] if base else []
    chosen += _torch_argument(recipe)
    file = context / recipe.project / "Containerfile"
    options = ["--build-arg=PIP_NO_INDEX=1", "--tag", recipe.tag, "--file", str(file)]
    run(["docker", "build", *chosen, *options, str(context)], what=f"build {recipe.tag}", timeout_s=_BUILD_TIMEOUT_S)
    run(["docker", "save", "--output", str(target), recipe.tag], what=f"save {recipe.tag}")


def _buildah(recipe: Recipe, context: Path, base: str, target: Path) -> None:
    """In a storage of its own, with layers kept, so that only what changed is built again."""
    packages.require_root("building images without docker")
    packages.ensure(packages.IMAGES)
    _bound_storage()
    chosen = base or _base_image()
    arguments = [f"--build-arg=BASE={chosen}", "--build-arg=PIP_NO_INDEX=1", *_torch_argument(recipe)]
    file = context / recipe.project / "Containerfile"
    options = ["--isolation=chroot", "--layers", "--pull=false", f"--tag={recipe.tag}", f"--file={file}"]
    bud = [*_storage(), "bud", *options, *arguments, str(context)]
    run(bud, what=f"build {recipe.tag}", timeout_s=_BUILD_TIMEOUT_S)
    # Layers that the layout has are neither read nor written: of the trainer's 1.6 GB a change of its code is one in a hundred.
    layout = _folder() / "layout"
    storage = f"[overlay@{_folder() / 'storage'}+{_folder() / 'storage-run'}]"
    copy = ["copy", "--quiet", "--dest-oci-accept-uncompressed-layers", f"containers-storage:{storage}{recipe.tag}"]
    skopeo = ["unshare", "--mount", "skopeo", "--insecure-policy", *copy, f"oci:{layout}:{recipe.project}"]
    run(skopeo, what="write the layers", timeout_s=600)
    layouts.prune(layout)
    layouts.write_archive(target, layout, recipe.project, recipe.tag)


def _torch_argument(recipe: Recipe) -> list[str]:
    """Names the build of torch, so that another one is another layer: what a layer mounts is not in its cache key."""
    local = prefetch.torch_wheels() if recipe is TRAINER else []
    return [f"--build-arg=TORCH=torch=={local[-1].name.split('-')[1]}"] if local else []


def _base_image() -> str:
    """Debian with Python, made by debootstrap once."""
    key = hashlib.sha256(f"{_SUITE} {_BASE_PACKAGES}".encode()).hexdigest()[:16]
    tag = f"{_BASE_IMAGE}-{key}"
    if subprocess.run([*_storage(), "inspect", "--type=image", tag], capture_output=True, check=False).returncode == 0:
        return tag
    print("making the base image (a minute, once)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=_folder(), prefix=_SCRATCH) as scratch:
        root = Path(scratch) / "root"
        include = f"--include={_BASE_PACKAGES}"
        run(["unshare", "--mount", "debootstrap", "--variant=minbase", include, _SUITE, str(root)], what="debootstrap")
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "var/log"):
            _delete_files(root / folder)
        container = run([*_storage(), "from", "scratch"], what="base image").strip()
        run([*_storage(), "add", "--quiet", container, str(root), "/"], what="base image")
        run([*_storage(), "commit", "--quiet", "--rm", container, tag], what="base image")
    return tag


def _delete_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            path.unlink()


def _bound_storage() -> None:
    storage = _folder() / "storage"
    if len(list(storage.glob("overlay-images/*/"))) > _LAYERS_MAX:
        shutil.rmtree(storage)


def _storage() -> list[str]:
    """Buildah with a storage of its own, in a mount namespace of its own: it leaves no mount behind."""
    folder = _folder()
    return ["unshare", "--mount", "buildah", f"--root={folder / 'storage'}", f"--runroot={folder / 'storage-run'}"]


def _key(recipe: Recipe, variant: str) -> str:
    """Of everything the image is made of. Files that come and go beside the sources (caches) are not among them."""
    made_by = f"{variant} {_FORMAT} {_SUITE} {_BASE_PACKAGES} {prefetch.BUILD_BACKEND} {prefetch.TORCH}"
    key = hashlib.sha256(made_by.encode())
    for path in recipe.sources:
        key.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    if recipe is TRAINER:
        key.update(repr([path.name for path in prefetch.torch_wheels()]).encode())
    return key.hexdigest()[:16]


def _folder() -> Path:
    folder = binaries.cache_root() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _lock() -> Iterator[None]:
    with (_folder() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _main(arguments: Sequence[str]) -> None:
    makers: dict[str, Callable[[], Path]] = {
        "pause": pause,
        "operator": lambda: build_image(OPERATOR),
        "trainer": lambda: build_image(TRAINER),
    }
    for name in arguments or makers:
        if name not in makers:
            raise NativeError(f"image {name}: unknown; there are {', '.join(makers)}")
        began = time.monotonic()
        path = makers[name]()
        note = f"{name}: {path.stat().st_size / 1e6:.0f} MB, {time.monotonic() - began:.1f} s"
        print(note, file=sys.stderr, flush=True)
        print(path)


if __name__ == "__main__":
    main_of(_main)
