"""An object store as the commit protocol needs it, through fsspec: list, read, write, delete, and create what isn't there.

`create` is what every promise rests on: of several who bring the same key one wins, and each knows whether it was he. So
a file system whose `pipe_file(mode="create")` is not one conditional request (If-None-Match on S3, ifGenerationMatch on
Google's) is refused. What became of a request whose answer was lost is found out by reading the key again.

Credentials are what the store's own library finds in the environment, never part of a URL. Whatever such a library
raises becomes an UnavailableError with the URL and the remedy.
"""

from __future__ import annotations

import inspect
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from deepseek_trainer.checkpoint.objects.layout import View
from deepseek_trainer.config import ConfigError
from deepseek_trainer.errors import TrainerError, UnavailableError, first_line

BLOCK = 16 * 2**20
"""Bytes that are sent, or fetched, by one request."""
DELETES = 1000
"""Keys in one request, at most."""
_S3 = {"connect_timeout": 10, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 3}}
"""No answer is waited for longer than that; s3fs tries five times in all."""
_ALLOWED = "list, read, write and delete objects there"


class UndecidedError(UnavailableError):
    """A conditional write whose answer is lost: nobody knows whether it is done, or will be."""


@dataclass(frozen=True)
class Store:
    """The objects below a URL.

    Attributes:
        url: without a slash at its end.
        endpoint: URL of the server, where it is not the provider's own; "" there.
    """

    url: str
    endpoint: str
    _files: Any = field(repr=False)
    _root: str = field(repr=False)

    def sizes(self) -> dict[str, int]:
        """Size of every object by its key; what was written before the call is in it."""
        with self._told("listed", bucket=True):
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        start = len(self._root.rstrip("/")) + 1
        return {name[start:]: int(entry["size"]) for name, entry in found.items() if entry["type"] == "file"}

    def read(self, key: str) -> bytes | None:
        """The content of a small object; None: there is none."""
        with self._told(f"read ({key})"):
            try:
                content: bytes = self._files.cat_file(self._path(key))
            except FileNotFoundError:
                return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Writes a small object over whatever is there."""
        with self._told(f"written ({key})", bucket=True):
            self._files.pipe_file(self._path(key), content)

    def create(self, key: str, content: bytes) -> bool:
        """Writes a small object where there is none; False: another one is there.

        Raises:
            UndecidedError: it is not there now; a request that is still on its way may bring it.
        """
        try:
            with self._told(f"written ({key})", bucket=True):
                self._files.pipe_file(self._path(key), content, mode="create")
        except FileExistsError:
            return self.read(key) == content  # the answer to an earlier try may have been lost
        except UnavailableError as error:
            if (there := self._there(key)) is None:
                raise UndecidedError(str(error)) from error
            return there == content
        return True

    def _there(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except UnavailableError:
            return None

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; those that are gone are no error."""
        paths = [self._path(key) for key in keys]
        for first in range(0, len(paths), DELETES):
            self._delete(paths[first : first + DELETES])

    def _delete(self, paths: list[str]) -> None:
        with self._told("changed"):
            try:
                self._files.rm(paths)
            except FileNotFoundError:  # one of them, and nobody knows which
                for path in paths:
                    with suppress(FileNotFoundError):
                        self._files.rm_file(path)

    @contextmanager
    def writing(self, key: str) -> Iterator[IO[bytes]]:
        """A stream that is uploaded block by block; an object appears at the end, and none if something is raised."""
        with self._told(f"written ({key})", bucket=True):
            stream = self._files.open(self._path(key), "wb", block_size=BLOCK)
            try:
                yield stream
            except BaseException:
                with suppress(Exception):
                    stream.discard()
                with suppress(Exception):
                    stream.closed = True  # or its destructor would upload what there is
                raise
            stream.close()

    @contextmanager
    def reading(self, key: str, size: int) -> Iterator[IO[bytes]]:
        """A stream that fetches what is asked for, in blocks.

        Args:
            size: of the object, so that nobody has to ask for it.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with (
            self._told(f"read ({key})"),
            self._files.open(self._path(key), "rb", block_size=BLOCK, size=size) as stream,
        ):
            yield stream

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    @contextmanager
    def _told(self, what: str, *, bucket: bool = False) -> Iterator[None]:
        """Makes an UnavailableError of what the store's library raises; that a key is absent, or there, is for the caller."""
        try:
            yield
        except TrainerError:
            raise
        except FileNotFoundError as error:
            if not bucket:
                raise
            raise UnavailableError(
                f"{self.url}: there is no such bucket: {first_line(error)}; make it, or correct checkpoint.objectStore.url"
            ) from error
        except FileExistsError:
            raise
        except Exception as error:
            raise UnavailableError(f"{self.url}: can't be {what}: {_cause(error)}; {_remedy(error)}") from error


def look(store: Store) -> View:
    """One listing of it.

    Raises:
        UnavailableError: the store refuses, or can't be reached.
    """
    return View(store.url, store.endpoint, store.sizes())


def connect(url: str, endpoint: str = "") -> Store:
    """The store at a URL; no request is made yet.

    Raises:
        ConfigError: nobody knows the scheme, its package is missing, or its library can't create an object conditionally.
    """
    import fsspec  # its clients take a second to import; jobs on a volume need none of them

    scheme = urllib.parse.urlsplit(url).scheme
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if endpoint:
        options["endpoint_url"] = endpoint
    if scheme in ("s3", "s3a"):
        options["config_kwargs"] = _S3
    try:
        files, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(
            f"checkpoint.objectStore.url: {url}: {first_line(error)}; the image lacks that package: add it "
            "(deepseek-trainer[gs], for gs://), or take s3://, whose package is deepseek-trainer[s3]"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"checkpoint.objectStore: {url}: {first_line(error)}; correct url, or endpointUrl") from error
    if not _creates(files):
        raise ConfigError(
            f"checkpoint.objectStore.url: {type(files).__name__} of {scheme}:// can't create an object on the condition that "
            "there is none, so two starts could both commit; take s3:// or gs://, or a volume"
        )
    return Store(url.rstrip("/"), endpoint, files, str(root))


def _creates(files: Any) -> bool:
    """Whether `mode="create"` is one request: fsspec's own looks first and writes then, which two can do at once."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind = type(files)
    method = kind._pipe_file if isinstance(files, AsyncFileSystem) else kind.pipe_file
    inherited = (AbstractFileSystem.pipe_file, AsyncFileSystem._pipe_file)
    return method not in inherited and "mode" in inspect.signature(method).parameters


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _remedy(error: BaseException) -> str:
    """What to do about it, by the names that the libraries give to their errors."""
    name = type(error).__name__
    if "Credential" in name:
        return (
            "put the store's credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, say) into a Secret, and name it in "
            "workers.envFrom"
        )
    if isinstance(error, PermissionError) or "Forbidden" in name:
        return f"correct the Secret that workers.envFrom names, or allow its owner to {_ALLOWED}"
    return "see that its server can be reached from the pods, and that checkpoint.objectStore names it rightly"
