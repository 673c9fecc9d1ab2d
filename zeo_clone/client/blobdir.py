"""Blob directories: where a client finds and keeps files of blobs.

`BlobCache` is the client's own directory, filled by downloads and own commits, bounded by a clean-up.
`SharedBlobs` is the server's directory, seen through a network file system.  Paths in and out, any
thread; processes of one machine may use the same directory.  Who transfers the bytes is not known here.
"""
from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ZODB import blob as zodb_blob
from ZODB.blob import BLOB_SUFFIX, FilesystemHelper, rename_or_copy_blob
from ZODB.POSException import POSKeyError
from ZODB.utils import tid_repr, u64

from zeo_clone.client.filelock import locked
from zeo_clone.loop.runtime import Runtime

log = logging.getLogger(__name__)

#: Directories of a blob cache; its layout is that of ZEO's, so that a cache can be taken over.
CACHE_DIRECTORIES = 997
CACHE_LAYOUT = 'zeocache'
#: After a clean-up the cache is this part of its size, so that there is not one at each download.
CLEAN_TO = 0.9


class CacheLayout:
    """``<oid modulo 997>/<oid divided by 997>.<tid in hex>.blob``."""

    def oid_to_path(self, oid: bytes) -> str:
        """The directory of an oid's files, below the base."""
        return str(u64(oid) % CACHE_DIRECTORIES)

    def path_to_oid(self, path: str) -> bytes:
        """Several oids share a directory."""
        raise ValueError('a directory of a blob cache belongs to several oids')

    def getBlobFilePath(self, oid: bytes, tid: bytes) -> str:
        """The file of a revision, below the base."""
        base, rest = divmod(u64(oid), CACHE_DIRECTORIES)
        return os.path.join(str(rest), f'{base}.{tid_repr(tid)[2:]}{BLOB_SUFFIX}')


zodb_blob.LAYOUTS.setdefault(CACHE_LAYOUT, CacheLayout())

Used = TypeVar('Used')
_numbers = itertools.count(1)


class BlobDirectory:
    """What both kinds share.  Raises ValueError if `path` has another layout."""

    def __init__(self, path: str, layout: str) -> None:
        self.path = path = os.path.abspath(path)  # the working directory may change
        try:
            self.fshelper = FilesystemHelper(path, layout)
            self.fshelper.create()
        except ValueError as error:
            raise ValueError(
                f'{path} cannot be used as {self.kind}: {error}. A shared_blob_dir is the blob directory '
                f'of the server itself; the cache of a client needs a directory of its own') from error
        self._discard_leftovers()

    kind = 'blob directory'

    @property
    def temporary_directory(self) -> str:
        """Where uncommitted blobs are written; on the same file system as the others."""
        return self.fshelper.temp_dir  # type: ignore[no-any-return]

    def temporary_name(self) -> str:
        """A file name that nobody else uses; found to be a left-over once this process has gone (B10)."""
        return os.path.join(self.temporary_directory, f'zeo-{os.getpid()}-{next(_numbers)}.part')

    def committed_path(self, oid: bytes, serial: bytes) -> str:
        """Where the file of a revision is, if it is."""
        return self.fshelper.getBlobFilename(oid, serial)  # type: ignore[no-any-return]

    def _discard_leftovers(self) -> None:
        for name in os.listdir(self.temporary_directory):
            parts = name.split('-')
            if name.startswith('zeo-') and name.endswith('.part') and parts[1].isdigit() \
                    and not _is_alive(int(parts[1])):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(self.temporary_directory, name))


class SharedBlobs(BlobDirectory):
    """The server's own blob directory."""

    kind = 'shared_blob_dir'

    def __init__(self, path: str) -> None:
        super().__init__(path, 'automatic')

    def find(self, oid: bytes, serial: bytes) -> str:
        """The path of a revision's file.  Raises POSKeyError, saying what may be wrong (B7)."""
        path = self.committed_path(oid, serial)
        if not os.path.exists(path):
            raise POSKeyError(
                f'no blob file {path}. Is {self.path} really the blob directory of the server? If it is '
                f'not shared, use blob_dir without shared_blob_dir', oid, serial)
        return path

    def hand_over(self, oid: bytes, source: str) -> str:
        """Move an uncommitted file to where the server will find it; returns its base name."""
        directory = self.fshelper.getPathForOID(oid, create=True)
        name = f'{tid_repr(oid)}-{os.getpid()}-{next(_numbers)}.tmp'
        rename_or_copy_blob(source, os.path.join(directory, name), chmod=False)
        return name


class BlobCache(BlobDirectory):
    """A client's own directory.  ``size`` in bytes or None: unbounded."""

    kind = 'blob cache'

    def __init__(self, path: str, size: int | None, check_percent: int, runtime: Runtime) -> None:
        super().__init__(path, CACHE_LAYOUT)
        self._size = size
        self._check_after = None if size is None else size * check_percent // 100
        self._runtime = runtime
        self._lock = runtime.lock()  # protects the next two
        self._added = 0  # bytes since the last clean-up
        self._cleaner: Any = None
        if size is not None:
            self._start_cleaning()

    def find(self, oid: bytes, serial: bytes, download: Callable[[str], None]) -> str:
        """The path of a revision's file; if there is none, `download` writes it to the path it is given."""
        return self.use(oid, serial, download, _touched)

    def use(self, oid: bytes, serial: bytes, download: Callable[[str], None],
            use: Callable[[str], Used]) -> Used:
        """``use(path)`` of a revision's file, which the clean-up does not remove meanwhile (B6).

        One process of the machine downloads, the others wait for it (B8).
        """
        path = self.committed_path(oid, serial)
        with contextlib.suppress(FileNotFoundError):
            return use(_touched(path))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with locked(f'{path}.lock'):
            with contextlib.suppress(FileNotFoundError):
                return use(_touched(path))
            part = self.temporary_name()
            try:
                download(part)
                self._publish(part, path)
                return use(path)
            finally:
                with contextlib.suppress(OSError):
                    os.remove(part)

    def adopt(self, oid: bytes, serial: bytes, source: str) -> None:
        """An own blob was committed: keep its file.  A cache may fail to; the server has the blob."""
        path = self.committed_path(oid, serial)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._publish(source, path)
        except OSError as error:
            log.warning('a committed blob cannot be kept in the cache %s: %s', self.path, error)

    def close(self) -> None:
        """Wait for a clean-up that is under way."""
        with self._lock:
            cleaner = self._cleaner
        if cleaner is not None:
            cleaner.join()

    def _publish(self, part: str, path: str) -> None:
        size = os.path.getsize(part)
        rename_or_copy_blob(part, path)
        if self._check_after is not None:
            with self._lock:
                self._added += size
                due = self._added > self._check_after and self._cleaner is None
            if due:
                self._start_cleaning()

    # ---- the clean-up, in a thread of its own ---------------------------------------------------

    def _start_cleaning(self) -> None:
        with self._lock:
            if self._cleaner is None:
                self._added = 0
                self._cleaner = self._runtime.start_thread(self._clean, 'zeo_clone blob cache clean-up')

    def _clean(self) -> None:
        try:
            with locked(os.path.join(self.path, 'check_size.lock'), wait=False) as mine:
                if mine:  # else another process is at it
                    self._remove_oldest()
        except OSError as error:
            log.warning('the blob cache %s could not be cleaned up: %s', self.path, error)
        finally:
            with self._lock:
                self._cleaner = None

    def _remove_oldest(self) -> None:
        assert self._size is not None
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        if used <= self._size:
            return
        for _, size, path in files:
            if used <= self._size * CLEAN_TO:
                break
            with locked(f'{path}.lock', wait=False) as mine:
                if mine:  # else it is being downloaded or opened
                    with contextlib.suppress(OSError):
                        os.remove(path)
                        used -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        for directory in os.scandir(self.path):
            if directory.name.isdigit() and directory.is_dir():
                for entry in os.scandir(directory.path):
                    if entry.name.endswith(BLOB_SUFFIX):
                        with contextlib.suppress(OSError):
                            status = entry.stat()
                            yield status.st_mtime, status.st_size, entry.path


def _touched(path: str) -> str:
    os.utime(path)  # the clean-up removes what was not used for longest
    return path


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
