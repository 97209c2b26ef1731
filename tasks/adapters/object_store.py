"""One small door to an fsspec URL: atomic writes, put-if-absent, streamed trees."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.core import url_to_fs

from tasks.contracts.errors import BadRequestError, StoreUnavailableError
from tasks.contracts.storage_faults import storage_fault

COPY_BYTES = 8 * 1024 * 1024
UNFINISHED = "work/unfinished"  # of a local store: what a killed writer leaves, no artifact sees


class ObjectStore:
    """Objects below one URL (`file://`, `s3://`, `gs://`, `memory://`); paths are relative."""

    def __init__(self, url: str) -> None:
        """Open the store at `url`; nothing is written."""
        if "://" not in url:
            message = f"store: expected a URL such as file:///srv/headrace, found {url!r:.200}"
            raise BadRequestError(message)
        self.url = url.rstrip("/")
        try:
            fs, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            message = f"store {url!r:.200}: expected a URL that fsspec can open: {error}"
            raise BadRequestError(message) from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")

    @property
    def local_root(self) -> Path | None:
        """Return the folder of a `file://` store, None for any other."""
        return Path(self._root) if self._is_local else None

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, fsspec.get_filesystem_class("file"))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def read(self, path: str) -> bytes:
        """Return the bytes at `path`; FileNotFoundError when there are none."""
        try:
            return cast("bytes", self._fs.cat_file(self._at(path)))
        except FileNotFoundError:
            raise
        except OSError as error:
            message = f"store {self.url}: could not read {path}: {error}"
            raise StoreUnavailableError(message) from error

    def exists(self, path: str) -> bool:
        """Say whether an object is there, never from a listing cache."""
        try:
            self.read_size(path)
        except FileNotFoundError:
            return False
        return True

    def read_size(self, path: str) -> int:
        """Return the size in bytes; FileNotFoundError when the object is absent."""
        self._fs.invalidate_cache()
        return int(self._fs.info(self._at(path))["size"])

    def modified_at(self, path: str) -> float:
        """Return when the object was written, in unix seconds; FileNotFoundError when absent."""
        self._fs.invalidate_cache()
        return float(self._fs.modified(self._at(path)).timestamp())

    @contextmanager
    def _written(self, path: str) -> Iterator[str]:
        """Give the place of `path`; whatever hinders writing there is told as an error of ours."""
        try:
            yield self._at(path)
        except OSError as error:
            where = f"store {self.url}: {path}"
            message = f"{where}: could not be written: {error}"
            raise storage_fault(error, where, self.local_root) or StoreUnavailableError(
                message
            ) from error

    @contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """Give a new file of the same file system, beside all artifacts; it is gone afterwards."""
        scratch = Path(self._at(UNFINISHED)) / uuid.uuid4().hex
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
        finally:
            scratch.unlink(missing_ok=True)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write `data` once; False when somebody was first. The object is never half there."""
        with self._written(path) as target:
            return self._put_if_absent(target, data)

    def _put_if_absent(self, target: str, data: bytes) -> bool:
        if self._is_local:
            with self._unfinished() as scratch:
                _write_synced(scratch, data)
                return _linked(scratch, Path(target))
        try:
            self._fs.pipe_file(target, data, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write `data` at `path` whatever was there, in one atomic step."""
        with self._written(path) as target:
            if not self._is_local:
                self._fs.pipe_file(target, data)
                return
            with self._unfinished() as scratch:
                _write_synced(scratch, data)
                _moved(scratch, Path(target))

    def upload(self, source: Path, path: str) -> None:
        """Stream a local file to `path`."""
        with self._written(path) as target:
            if not self._is_local:
                self._fs.put_file(str(source), target)
                return
            with self._unfinished() as scratch:
                with source.open("rb") as reader, scratch.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, COPY_BYTES)
                    writer.flush()
                    os.fsync(writer.fileno())
                _moved(scratch, Path(target))

    def download(self, path: str, target: Path) -> None:
        """Stream the object at `path` to a local file; FileNotFoundError when absent."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(self._at(path), str(target))

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the relative paths of all objects below `prefix`, sorted. Not for hot paths."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._at(prefix))
        except FileNotFoundError:
            return
        for name in sorted(found):
            relative = str(name)[len(self._root) + 1 :]
            if not Path(relative).name.startswith(".scratch-"):
                yield relative

    def remove_tree(self, prefix: str) -> None:
        """Remove everything below `prefix`; absence is fine."""
        self._fs.invalidate_cache()
        if self._fs.exists(self._at(prefix)):
            self._fs.rm(self._at(prefix), recursive=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())


def _moved(scratch: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch.replace(target)


def _linked(scratch: Path, target: Path) -> bool:
    """Give a finished file its name unless another has it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(scratch, target)
    except FileExistsError:
        return False
    return True
