"""Blob directories: where a client finds and keeps files of blobs.

`BlobCache` is the client's own directory, filled by downloads and own commits, bounded by a clean-up.
`SharedBlobs` is the server's directory, seen through a network file system.  Paths in and out, any
thread; processes may use the same directory, also in containers of their own or as other users of a group.
Who transfers the bytes is not known here.

A file has its name in a cache only when it is on the disk: a crash of the machine leaves it whole or not at
all (B11).  Older versions and ZEO did not see to that.  What they have left under their names is compared
with the size that the server tells, and taken over if it is the same.
"""
from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

from ZODB.blob import BLOB_SUFFIX, LAYOUT_MARKER, LAYOUTS, FilesystemHelper
from ZODB.POSException import POSKeyError
from ZODB.utils import tid_repr, u64

from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.shareddir import Scratch, left_over, locked, make_directory, move, share
from zeo_clone.loop.throttle import Throttle

log = logging.getLogger(__name__)

#: Directories of a blob cache; its layout is that of ZEO's, so that a cache can be taken over.
CACHE_DIRECTORIES = 997
CACHE_LAYOUT = 'zeocache'
#: How the names of files end that are known to be whole; others are ZEO's, or of older versions.
WHOLE_SUFFIX = f'.whole{BLOB_SUFFIX}'
#: After a clean-up the cache is this part of its size, so that there is not one at each download.
CLEAN_TO = 0.9
#: A clean-up that could not remove enough, because files were being opened, goes on after so many seconds.
PAUSE_S = 1.0


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


LAYOUTS.setdefault(CACHE_LAYOUT, CacheLayout())

Used = TypeVar('Used')
#: What the server says of a file; None if it cannot tell.
Size = Callable[[], 'int | None']


def unknown() -> None:
    """The size of a file of which nothing is known."""


class BlobDirectory:
    """What both kinds share.  Raises ValueError if `path` has another layout; None takes any."""

    def __init__(self, path: str, layout: str | None, runtime: Runtime) -> None:
        self.path = path = runtime.absolute_path(path)  # the working directory may change
        self._runtime = runtime
        self._throttle = Throttle(runtime.monotonic)
        with self._explained():
            try:
                self.fshelper = FilesystemHelper(path, layout or self._layout())  # which looks at nothing
                self.scratch = Scratch(runtime, self.temporary_directory)
                self._make()
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

    def take_over(self, source: str) -> str:
        """Move an application's file here, from another file system if need be; its new, temporary path."""
        with self._explained():
            path = self.scratch.take('part')
            try:
                move(self._runtime, source, path)
            except BaseException:
                self.scratch.give_back(path)
                raise
        return path

    def open_part(self, path: str) -> IO[bytes]:
        """The temporary file `path`, for writing."""
        return self._runtime.open(path, 'wb')

    def open(self, path: str) -> IO[bytes]:
        """A file, for reading."""
        return self._runtime.open(path, 'rb')

    def read_part(self, path: str) -> tuple[int, IO[bytes]]:
        """Size of the temporary file `path`, and itself, for reading in large pieces."""
        return self._runtime.size(path), self._runtime.open(path, 'rb', 0)

    def discard(self, path: str) -> None:
        """Remove the temporary file `path`, unless it has got another name (B2).  Never raises."""
        try:
            self.scratch.give_back(path)
        except OSError:
            pass  # what is left of a process that has gone is removed at the next start
        except Exception as error:
            self._report(logging.ERROR, '%s cannot be removed', path, error=error)

    def _report(self, level: int, text: str, *args: object, error: Exception | None = None) -> None:
        """A line in the log, if there was none of the kind of late."""
        self._throttle.report(log, level, text, '', text, *args, error=error)

    def forsake(self) -> None:
        """Forget temporary files in a process that was forked: they are its parent's."""
        self.scratch.forsake()

    def committed_path(self, oid: bytes, serial: bytes) -> str:
        """Where the file of a revision is, if it is."""
        return self.fshelper.getBlobFilename(oid, serial)  # type: ignore[no-any-return]

    def _make(self) -> None:
        make_directory(self._runtime, self.temporary_directory)
        if not self._marked():
            self._mark()
        found = self._marked()
        if found != self.fshelper.layout_name:
            raise ValueError(f'its files are laid out as {found!r:.50}, not {self.fshelper.layout_name!r}')

    def _mark(self) -> None:
        part = self.scratch.take('part')
        try:
            with self._runtime.open(part, 'xb') as file:
                file.write(self.fshelper.layout_name.encode())
            self._runtime.sync_file(part)
            share(self._runtime, part, 0o666)
            self._runtime.rename(part, os.path.join(self.path, LAYOUT_MARKER))
        except OSError as error:
            error.filename = error.filename or part  # of a disk that is full none is told
            raise
        finally:
            self.discard(part)

    def _marked(self) -> str:
        """What the directory says of its layout; mostly nothing if it is new."""
        try:
            with self._runtime.open(os.path.join(self.path, LAYOUT_MARKER), 'rb') as file:
                return file.read(1000).decode('utf-8', 'replace').strip()
        except FileNotFoundError:
            return ''

    def _layout(self) -> str:
        """That of the storage whose directory this is, as ZODB finds it: the first versions left no mark."""
        names = self._runtime.listdir(self.path) if self._runtime.exists(self.path) else []
        found = self._marked() or ('bushy' if all(name.startswith('.') for name in names) else 'lawn')
        if found not in LAYOUTS:
            raise ValueError(f'its files are laid out in a way that is not known, {found!r:.50}')
        return found

    def _discard_leftovers(self) -> None:
        """Partial files of processes that have gone (B10)."""
        with contextlib.suppress(OSError), left_over(self._runtime, self.temporary_directory) as paths:
            for path in paths:
                if path.endswith('.part'):
                    with contextlib.suppress(OSError):
                        self._runtime.remove(path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell which right is missing, and where (B13)."""
        try:
            yield
        except PermissionError as error:
            paths = [path for path in (error.filename, error.filename2) if self._is_mine(path)]
            if not paths:
                raise  # it comes from the server, or is about an application's file
            raise self._missing_right(*paths) from error

    def _is_mine(self, path: object) -> bool:
        return isinstance(path, str) and (path.startswith(self.path) or self.path.startswith(path))

    def _missing_right(self, *paths: str) -> PermissionError:
        for path in paths:
            where, right = os.path.dirname(path), 'write in'
            while not self._runtime.exists(where):
                where = os.path.dirname(where)
            if not self._runtime.may_write_in(where):
                break
        else:
            where, right = paths[0], 'read'
        status = self._runtime.lstat(where)
        user, groups = self._runtime.credentials()
        return PermissionError(
            errno.EACCES,
            f'{self.kind} {self.path}: user {user} of the groups {", ".join(map(str, groups))} has not the '
            f'right to {right} {where}, which belongs to user {status.st_uid} and group {status.st_gid} and '
            f'has the permissions {stat.S_IMODE(status.st_mode):o}. Users who share a blob directory need a '
            f'group in common that owns it and may write in it: chgrp -R GROUP, chmod g+rwxs for directories')


class SharedBlobs(BlobDirectory):
    """The server's own blob directory."""

    kind = 'shared_blob_dir'

    def __init__(self, path: str, runtime: Runtime) -> None:
        super().__init__(path, None, runtime)

    def find(self, oid: bytes, serial: bytes) -> str:
        """The path of a revision's file.  Raises POSKeyError, saying what may be wrong (B7); OSError if the
        network file system does not tell."""
        path = self.committed_path(oid, serial)
        try:
            self._runtime.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise POSKeyError(
                f'no blob file {path}. Is {self.path} really the blob directory of the server? If it is '
                f'not shared, use blob_dir without shared_blob_dir', oid, serial) from None
        return path

    def hand_over(self, oid: bytes, source: str) -> str:
        """Move an uncommitted file to where the server will find it; its path there.

        Its contents are on the disk then: the server, on another host, could not see to that.  The name is
        one that ZEO, and servers of older versions, take as well.
        """
        part = self.take_over(source)
        try:
            with self._explained():
                self._runtime.sync_file(part)
                directory = self.fshelper.getPathForOID(oid)
                make_directory(self._runtime, directory)
                path = os.path.join(directory, f'0x{self._runtime.randbytes(12).hex()}.tmp')
                try:
                    self._runtime.rename(part, path)
                except BaseException:  # a network file system may have done it all the same
                    with contextlib.suppress(OSError):
                        self._runtime.remove(path)
                    raise
                return path
        finally:
            self.discard(part)


class BlobCache(BlobDirectory):
    """A client's own directory.  ``size`` in bytes or None: unbounded."""

    kind = 'blob cache'

    def __init__(self, path: str, size: int | None, check_percent: int, runtime: Runtime) -> None:
        super().__init__(path, CACHE_LAYOUT, runtime)
        for directory in self.path, self.temporary_directory:
            if not runtime.may_write_in(directory):
                raise self._missing_right(os.path.join(directory, 'file'))
        self._size = size
        self._check_after = 0 if size is None else size * check_percent // 100
        self._closing = runtime.event()
        self._lock = runtime.lock()  # protects _room, _added and _cleaner
        self._room = self._check_after  # bytes that may come before the next clean-up
        self._added = 0  # bytes since the last clean-up began
        self._cleaner: Any = None
        if size is not None:
            self._start_cleaning()

    def committed_path(self, oid: bytes, serial: bytes) -> str:
        """Where the file of a revision is, if it is, and is whole."""
        return super().committed_path(oid, serial).removesuffix(BLOB_SUFFIX) + WHOLE_SUFFIX

    def find(self, oid: bytes, serial: bytes, download: Callable[[str], None],
             size: Size = unknown) -> str:
        """The path of a revision's file; if there is none, `download` writes it to the path it is given.
        """
        return self.use(oid, serial, download, self._touched, size)

    def use(self, oid: bytes, serial: bytes, download: Callable[[str], None], use: Callable[[str], Used],
            size: Size = unknown) -> Used:
        """``use(path)`` of a revision's file, which the clean-up does not remove meanwhile (B6).

        One process of the machine downloads, the others wait for it (B8).
        """
        path = self.committed_path(oid, serial)
        with self._explained():
            with contextlib.suppress(FileNotFoundError):
                return use(self._touched(path))
            make_directory(self._runtime, os.path.dirname(path))
            with locked(self._runtime, f'{path}.lock'):
                with contextlib.suppress(FileNotFoundError):
                    return use(self._touched(path))
                if not self._take_over_unchecked(super().committed_path(oid, serial), path, size):
                    self._download(path, download)
                added = self._runtime.size(path)
                used = use(path)
            self._count(added)
            return used

    def adopt(self, oid: bytes, serial: bytes, source: str) -> None:
        """An own blob was committed: keep its file, which is on the disk.  A cache may fail to; the server
        has the blob."""
        path = self.committed_path(oid, serial)
        try:
            size = self._runtime.size(source)
            make_directory(self._runtime, os.path.dirname(path))
            self._publish(source, path)
        except OSError as error:
            self._report(logging.WARNING, 'a committed blob cannot be kept in the cache %s: %s', self.path,
                         error)
        else:
            self._count(size)

    def sync(self, path: str) -> None:
        """Have a file on the disk that `adopt` will be given."""
        self._runtime.sync_file(path)

    def close(self) -> None:
        """Wait for a clean-up that is under way."""
        self._closing.set()
        with self._lock:
            cleaner = self._cleaner
        if cleaner is not None:
            cleaner.join()

    def _download(self, path: str, download: Callable[[str], None]) -> None:
        part = self.scratch.take('part')
        try:
            download(part)
            self._runtime.sync_file(part)
            self._publish(part, path)
        finally:
            self.discard(part)

    def _take_over_unchecked(self, old: str, path: str, size: Size) -> bool:
        """A file of ZEO or an older version becomes `path` if the server says that it is whole."""
        with contextlib.suppress(FileNotFoundError):  # there is none, or the clean-up was faster
            if self._runtime.size(old) == size():
                self._runtime.sync_file(old)
                self._publish(old, path)
                return True
            self._runtime.remove(old)
        return False

    def _publish(self, part: str, path: str) -> None:
        with contextlib.suppress(PermissionError):  # another user's
            self._runtime.chmod(part, self._runtime.stat(os.path.dirname(path)).st_mode & 0o444)
        self._runtime.rename(part, path)

    def _touched(self, path: str) -> str:
        try:
            self._runtime.utime(path)  # the clean-up removes what was not used for longest
        except PermissionError:
            pass  # another user's: its time of access will tell
        return path

    # ---- the clean-up, in a thread of its own ---------------------------------------------------

    def _count(self, added: int) -> None:
        if self._size is None:
            return
        with self._lock:
            self._added += added
            due = self._added > self._room
        if due:
            self._start_cleaning()

    def _start_cleaning(self) -> None:
        with self._lock:
            if self._cleaner is None:
                try:
                    self._cleaner = self._runtime.start_thread(self._clean, 'zeo_clone blob cache clean-up')
                except RuntimeError as error:  # no more threads now: with the next blob, perhaps
                    self._report(logging.WARNING, 'the blob cache %s could not be cleaned up: %s', self.path,
                                 error)

    def _clean(self) -> None:
        try:
            while self._clean_once():
                pass
        except BaseException:
            with self._lock:
                self._cleaner = None
            raise

    def _clean_once(self) -> bool:
        """Whether there has to be another one: of what came meanwhile it may have seen nothing."""
        with self._lock:
            self._added = 0
        enough = True
        try:
            with locked(self._runtime, os.path.join(self.path, 'check_size.lock')):
                enough = self._remove_oldest()
        except OSError as error:
            self._report(logging.WARNING, 'the blob cache %s could not be cleaned up: %s', self.path, error)
        except Exception as error:
            self._report(logging.ERROR, 'the blob cache %s could not be cleaned up', self.path, error=error)
        if not enough and not self._closing.wait(PAUSE_S):
            return True
        with self._lock:
            if enough and self._added > self._room:
                return True
            self._cleaner = None
            return False

    def _remove_oldest(self) -> bool:
        """False if it is still too much, since some files were being opened."""
        assert self._size is not None
        files = sorted(self._files())
        used, busy = sum(size for _, size, _ in files), False
        for _, size, path in files if used > self._size else ():
            if used <= self._size * CLEAN_TO:
                break
            with locked(self._runtime, f'{path}.lock', wait=False) as mine:
                if mine:
                    with contextlib.suppress(OSError):
                        self._runtime.remove(path)
                        used -= size
                else:
                    busy = True
        with self._lock:
            self._room = min(self._check_after, max(0, self._size - used))
        return used <= self._size or not busy

    def _files(self) -> Iterator[tuple[float, int, str]]:
        for directory in self._runtime.entries(self.path):
            if directory.name.isdigit() and directory.is_dir():
                for entry in self._runtime.entries(directory.path):
                    if entry.name.endswith(BLOB_SUFFIX):
                        with contextlib.suppress(OSError):
                            status = entry.stat()
                            yield max(status.st_mtime, status.st_atime), status.st_size, entry.path
