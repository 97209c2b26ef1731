"""One small door to an fsspec URL: atomic writes, put-if-absent, streamed files, errors said once."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from tasks.contracts.credentials import without_given_credentials
from tasks.contracts.errors import BadRequestError, HeadraceError, StoreUnavailableError
from tasks.contracts.storage_faults import storage_fault
from tasks.contracts.store_urls import demand_no_credentials, fsspec_options

COPY_BYTES = 8 * 1024 * 1024
UNFINISHED = "work/unfinished"  # of a local store: what a killed writer leaves, no artifact sees
PARTS_AT_ONCE = 4  # of one upload: 32 MB in memory
MAX_PARTS = 10_000  # of S3
REQUEST_SECONDS = 60.0  # one small object, all tries together
SLOWEST_BYTES_PER_SECOND = 1_000_000
READ, WRITE = "read", "write"
REFUSED = (
    "the store refuses these credentials: compare their rights with docs/runbooks/stores.md "
    "(without s3:ListBucket even an object that is not there is refused), then start again"
)
_FOREIGN = frozenset({"botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs", "gcsfs", "google"})


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object as a listing knows it; `written` is in unix seconds."""

    path: str
    size: int
    written: float
    plain: bool = True  # False for a link or a device, which only a local store can hold


class ObjectStore:
    """Objects below one URL (`file://`, `s3://`, `gs://`, `memory://`); paths are relative."""

    def __init__(self, url: str) -> None:
        """Open the store at `url`; nothing is written or asked."""
        if "://" not in url:
            message = f"store: expected a URL such as file:///srv/headrace, found {url!r:.200}"
            raise BadRequestError(message)
        self.url = demand_no_credentials(url, "store").rstrip("/")
        try:
            fs, root = url_to_fs(self.url, **fsspec_options(self.url))
        except (ImportError, ValueError) as error:
            message = f"store {url!r:.200}: expected a URL that fsspec can open: {error}"
            raise BadRequestError(message) from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")
        self._is_s3 = self.url.startswith("s3://")
        if self._is_s3:
            from tasks.adapters.s3_patience import make_patient  # noqa: PLC0415  for s3:// only

            make_patient(fs)

    @property
    def local_root(self) -> Path | None:
        """Return the folder of a `file://` store, None for any other."""
        return Path(self._root) if self._is_local else None

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, fsspec.get_filesystem_class("file"))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _within(self, size: int = 0) -> dict[str, float]:
        """Return how long a call may take, where the file system can be told."""
        if not isinstance(self._fs, AsyncFileSystem):
            return {}
        return {"timeout": REQUEST_SECONDS + size / SLOWEST_BYTES_PER_SECOND}

    @contextmanager
    def _errors(self, doing: str, path: str) -> Iterator[None]:
        """Say the store's own errors once, as ones that a retry may help; pass on all others."""
        try:
            yield
        except Exception as error:
            absent = isinstance(error, FileNotFoundError) and doing == READ
            if absent or not _is_of_the_store(error):
                raise
            raise self._said(error, doing, path) from error

    def _said(self, error: Exception, doing: str, path: str) -> HeadraceError:
        """Return the one error of ours: only what the store refuses is not worth a retry."""
        words = without_given_credentials(str(error) or type(error).__name__)
        message = f"store {self.url}: could not {doing} {path}: {words:.500}"
        if isinstance(error, PermissionError) and not self._is_local:
            return BadRequestError(f"{message}; {REFUSED}")
        if doing != WRITE:
            return StoreUnavailableError(message)
        fault = None
        if isinstance(error, OSError):
            here = [self.local_root] if self.local_root else []
            fault = storage_fault(error, f"store {self.url}: {path}", here)
        return fault or StoreUnavailableError(f"{message}; is it full or read-only?")

    def read(self, path: str) -> bytes:
        """Return the bytes at `path` by one request; FileNotFoundError when there are none."""
        with self._errors(READ, path):
            return cast("bytes", self._fs.cat_file(self._at(path), **self._within()))

    def digest(self, path: str) -> tuple[int, str]:
        """Return the size and the hex sha256 of the stored bytes; FileNotFoundError when absent."""
        hasher, size = hashlib.sha256(), 0
        with (
            self._errors(READ, path),
            self._fs.open(self._at(path), "rb", block_size=COPY_BYTES) as reader,
        ):
            while piece := reader.read(COPY_BYTES):
                hasher.update(piece)
                size += len(piece)
        return size, hasher.hexdigest()

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
        with self._errors(WRITE, path):
            if not self._is_local:
                return self._create(self._at(path), data)
            with self._unfinished() as scratch:
                _write_synced(scratch, data)
                return _linked(scratch, Path(self._at(path)))

    def _create(self, target: str, data: bytes) -> bool:
        if not self._is_s3:
            try:
                self._fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
            return True
        return self._create_on_s3(target, data)

    def _create_on_s3(self, target: str, data: bytes) -> bool:
        """Send If-None-Match: *; a try whose answer was lost may have been the one that wrote."""
        from tasks.adapters.s3_patience import WRITER, is_condition_failed  # noqa: PLC0415

        writer = uuid.uuid4().hex
        try:
            # Below two of these chunks it is one conditional PUT.
            self._fs.pipe_file(
                target,
                data,
                mode="create",
                chunksize=max(COPY_BYTES, len(data)),
                Metadata={WRITER: writer},
                **self._within(len(data)),
            )
        except OSError as error:
            if not isinstance(error, FileExistsError) and not is_condition_failed(error):
                raise
        else:
            return True
        bucket, key, _ = self._fs.split_path(target)
        head = self._fs.call_s3("head_object", Bucket=bucket, Key=key, **self._within())
        return bool(head.get("Metadata", {}).get(WRITER) == writer)

    def replace(self, path: str, data: bytes) -> None:
        """Write `data` at `path` whatever was there, in one atomic step."""
        target = self._at(path)
        with self._errors(WRITE, path):
            if not self._is_local:
                self._fs.pipe_file(target, data, **self._within(len(data)))
                return
            with self._unfinished() as scratch:
                _write_synced(scratch, data)
                _moved(scratch, Path(target))

    def touch(self, path: str) -> None:
        """Make a small object as young as if it were written now; its bytes stay."""
        with self._errors(WRITE, path):
            if self._is_local:
                os.utime(self._at(path))
                return
        self.replace(path, self.read(path))

    def upload(self, source: Path, path: str) -> None:
        """Stream a local file to `path`."""
        target = self._at(path)
        with self._errors(WRITE, path):
            if not self._is_local:
                self._fs.put_file(str(source), target, **self._parts(source.stat().st_size))
                return
            with self._unfinished() as scratch:
                with source.open("rb") as reader, scratch.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, COPY_BYTES)
                    writer.flush()
                    os.fsync(writer.fileno())
                _moved(scratch, Path(target))

    def _parts(self, size: int) -> dict[str, Any]:
        if not self._is_s3:
            return {}
        chunk = max(COPY_BYTES, math.ceil(size / MAX_PARTS))
        return {"chunksize": chunk, "max_concurrency": PARTS_AT_ONCE, **self._within(size)}

    def download(self, path: str, target: Path, size: int = 0) -> None:
        """Stream the object at `path` to a local file; FileNotFoundError when absent."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(READ, path):
            self._fs.get_file(self._at(path), str(target), **self._within(size))

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the relative paths of all objects below `prefix`, sorted. Not for hot paths."""
        for stored in self.entries(prefix):
            yield stored.path

    def entries(self, prefix: str) -> Iterator[Stored]:
        """Yield all objects below `prefix`, sorted by path. Not for hot paths."""
        self._fs.invalidate_cache()
        with self._errors("list", prefix):
            try:
                found = self._fs.find(self._at(prefix), detail=True)
            except FileNotFoundError:
                return
        for name in sorted(found):
            info = found[name]
            yield Stored(
                path=str(name)[len(self._root) + 1 :],
                size=int(info["size"]),
                written=_written(info),
                plain=info["type"] == "file" and not info.get("islink", False),
            )

    def remove_files(self, folder: str, names: Iterable[str]) -> None:
        """Remove the named objects of a folder without a listing; absence is fine."""
        if self._is_local:
            shutil.rmtree(self._at(folder), ignore_errors=True)
            return
        with self._errors("remove", folder):
            for name in names:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._at(f"{folder}/{name}"), **self._within())

    def remove_tree(self, prefix: str) -> None:
        """Remove everything below `prefix`; absence is fine."""
        self._fs.invalidate_cache()
        with self._errors("remove", prefix), suppress(FileNotFoundError):
            if self._fs.exists(self._at(prefix)):
                self._fs.rm(self._at(prefix), recursive=True)


def _is_of_the_store(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _FOREIGN


def _written(info: dict[str, Any]) -> float:
    """Return when an object was written: file systems name it differently."""
    for name in ("mtime", "LastModified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    message = f"listing: expected the time of {info.get('name')}, found {sorted(info)}"
    raise StoreUnavailableError(message)


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
