"""What a client wants its transaction to do, kept until the vote: in memory, then in a spool file; its
blobs in files of their own until the storage takes them over.

In: operations, one by one.  Out: the same ones, in order, as often as asked for.  An operation is a
tuple ``(verb, oid, serial, data, extra)`` of plain values; this module does not know what a verb
means.  The spool file is an unnamed temporary one of our own, gone with its descriptor, so that no clean-up
can be forgotten.  In: the parts of one blob after another, never interleaved (B1), or the name of a file that
the client put into a blob directory that both share (B7).  Out: names of whole files, for the storage to
rename, and word when they are on the disk (B11): that begins as soon as a file is whole, in a worker thread.
Loop thread only; a file exists only inside a transaction (S5b).
"""
from __future__ import annotations

import contextlib
import errno
import marshal  # Python's own, for a file of ours; messages have one in `zrpc`
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, Protocol

from ZODB.POSException import StorageError, StorageTransactionError, Unsupported

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.blobfiles import SHARED_NAME, BlobFiles, no_room
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import BadArgument, Operation

#: Operations are kept in memory up to this many bytes (L7); beyond, they go to the spool file in pieces
#: of this size.  A thousand records of 1,000 bytes stay in memory.
SPOOL_SIZE = 4 << 20
#: One transaction holds at most this many bytes: no disk should be filled by a client gone wild.
MAX_SIZE = 64 << 30
#: What an operation costs besides its record.
OVERHEAD = 200
#: What is kept in memory is counted in steps of so many bytes: this happens for each object.
STEP = 16 << 10

#: Has a function called in a worker thread.
Run = Callable[[Callable[[], Any]], Deferred]


class Share(Protocol):
    """What one client has waiting, counted."""

    def add(self, size: int) -> None:
        """So many more bytes; or less, if it is negative."""


class Uploads:
    """The blobs of one transaction, in `files`.  `check_room` may raise OSError before a file is made.

    `close` removes what was not taken (B2).
    """

    def __init__(self, files: BlobFiles, run: Run, check_room: Callable[[], object] = lambda: None) -> None:
        self._files = files
        self._run = run
        self._check_room = check_room
        self._file: IO[bytes] | None = None  # of the blob that is coming in
        self._names: list[str] = []  # of all files that have been made, the present one last
        self._whole: list[str] = []  # files that are to be synced
        self._syncing = False
        self._failure: BaseException | None = None  # of a sync
        self._notes: list[str] = []  # of files in a shared directory
        self._waiting: Deferred | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f'<Uploads, {len(self._names)} files{", one coming in" if self._file else ""}>'

    def start(self) -> None:
        """A blob begins.  Raises OSError, Unsupported, StorageTransactionError."""
        if self._file is not None:
            raise StorageTransactionError('a blob begins before the one before it has ended')
        self._require_blobs()
        self._check_room()
        name, self._file = self._files.create()
        self._names.append(name)

    def write(self, chunk: bytes) -> None:
        """More of the blob.  Raises OSError, StorageTransactionError."""
        file = self._present()
        try:
            file.write(chunk)
        except OSError as error:
            raise no_room(error, os.path.dirname(self._names[-1])) from error

    def end(self) -> str:
        """The blob is whole; the name of its file.  Raises OSError: all that needs room happens now
        (B4).
        """
        file = self._present()
        self._file = None
        try:
            file.close()
        except OSError as error:
            raise no_room(error, os.path.dirname(self._names[-1])) from error
        self._sync()
        return self._names[-1]

    def take_shared(self, oid: bytes, name: str) -> str:
        """A file that the client wrote; its whole name.  Raises BadArgument, OSError, Unsupported."""
        self._require_blobs()
        helper = self._files.helper
        if helper is None:
            raise Unsupported('the storage has no blob directory that could be shared')
        if SHARED_NAME.fullmatch(name) is None:
            raise BadArgument('the name of a shared blob is none that a shared blob directory gives out')
        path = os.path.join(helper.getPathForOID(oid), name)
        try:
            mode = self._files.runtime.lstat(path).st_mode
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT, f'the blob that the client wrote is not in the blob directory of the server, '
                              f'{helper.base_dir}: is it really the one that the client has as '
                              f'shared_blob_dir?') from None
        if not stat.S_ISREG(mode):
            raise BadArgument('a shared blob is not a regular file')
        self._names.append(path)
        self._notes += self._files.note(path)
        self._sync()
        return path

    # ---- on the disk ------------------------------------------------------------------------------

    @property
    def on_disk(self) -> bool:
        """Is there nothing to wait for?"""
        return not self._syncing and self._failure is None

    def when_on_disk(self) -> Deferred:
        """Settled when all whole files are on the disk; fails with OSError."""
        self._waiting = Deferred()
        self._tell()
        return self._waiting

    def _sync(self) -> None:
        self._whole.append(self._names[-1])
        if not self._syncing:
            self._sync_whole()

    def _sync_whole(self) -> None:
        whole, self._whole = self._whole, []
        self._syncing = True
        self._run(partial(self._files.sync, whole)).when_settled(self._synced)

    def _synced(self, _: object, error: BaseException | None) -> None:
        self._syncing = False
        if self._closed:
            return
        self._failure = self._failure or error
        if self._whole and self._failure is None:
            self._sync_whole()
        else:
            self._tell()

    def _tell(self) -> None:
        if self._waiting is not None and self._failure is not None:
            self._waiting.fail(self._failure)
        elif self._waiting is not None and not self._syncing:
            self._waiting.succeed(None)

    # ---- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove what the storage did not take.  May be called twice.  Never raises."""
        self._closed = True
        file, self._file = self._file, None
        paths = (*self._names, *self._notes)
        self._names, self._notes = [], []
        if file is not None:
            with contextlib.suppress(OSError):  # no room for what was buffered: it goes anyway
                file.close()
        for path in paths:
            self._files.drop(path)

    def _present(self) -> IO[bytes]:
        if self._file is None:
            raise StorageTransactionError('a part of a blob, but no blob has begun')
        return self._file

    def _require_blobs(self) -> None:
        if not self._files.has_blobs:
            raise Unsupported('the storage has no blobs; give it a blob-dir')


class Operations:
    """The operations of one transaction, in the order in which they came, and the blobs among them.

    What is in memory counts in `share`.  `check_room` is called before a file is made, and may raise OSError.
    """

    def __init__(self, runtime: Runtime, uploads: Uploads, share: Share | None = None,
                 check_room: Callable[[], object] = lambda: None) -> None:
        self._runtime = runtime
        self.uploads = uploads
        self._share = share
        self._check_room = check_room
        self._recent: list[Operation] = []
        self._recent_size = 0
        self._counted = 0  # of that, in the share
        self._mark = min(STEP, SPOOL_SIZE)  # at this size something has to be done
        self._file: IO[bytes] | None = None
        self._pieces = 0
        self.size = 0

    def __repr__(self) -> str:
        return f'<Operations, {self.size} bytes, {self._pieces} pieces in a file>'

    def append(self, operation: Operation) -> None:
        """Keep `operation`.  Raises OSError or StorageError if there is no room for it."""
        data = operation[3]
        size = OVERHEAD + len(data) if data else OVERHEAD
        self._count(size)
        self._recent.append(operation)
        self._recent_size += size
        if self._recent_size >= self._mark:
            self._grown()

    def write_blob(self, chunk: bytes) -> None:
        """More of the blob that is coming in.  Raises OSError or StorageError."""
        self._count(len(chunk))
        self.uploads.write(chunk)

    def _count(self, size: int) -> None:
        if self.size + size > MAX_SIZE:
            raise StorageError(f'the transaction is larger than {MAX_SIZE} bytes; make smaller ones')
        self.size += size

    def _grown(self) -> None:
        if self._recent_size >= SPOOL_SIZE:
            self._spool()
        self._count_memory()

    def _count_memory(self) -> None:
        if self._share is not None and self._counted != self._recent_size:
            self._share.add(self._recent_size - self._counted)
        self._counted = self._recent_size
        self._mark = min(self._recent_size + STEP, SPOOL_SIZE)

    def _spool(self) -> None:
        try:
            if self._file is None:
                self._check_room()
                self._file = self._runtime.temporary_file()
            marshal.dump([tuple(operation) for operation in self._recent], self._file)
            self._file.flush()
        except OSError as error:
            self.close()
            raise OSError(error.errno or errno.EIO,
                          f'the server cannot keep the transaction in its temporary directory '
                          f'{self._runtime.temporary_directory()}: {error.strerror}') from error
        self._pieces += 1
        self._recent = []
        self._recent_size = 0

    def __iter__(self) -> Iterator[Operation]:
        """All operations.  Do not append meanwhile."""
        return iter(self._recent) if self._file is None else self._with_spooled(self._file)

    def _with_spooled(self, file: IO[bytes]) -> Iterator[Operation]:
        file.seek(0)
        for _ in range(self._pieces):
            yield from map(Operation._make, marshal.load(file))
        yield from self._recent

    def close(self) -> None:
        """Forget everything.  May be called twice.  Never raises."""
        self._recent = []
        self._recent_size = self._pieces = 0
        if self._counted:
            self._count_memory()
        file, self._file = self._file, None
        self.uploads.close()
        if file is not None:
            with contextlib.suppress(OSError):  # no room for what was buffered: it goes anyway
                file.close()
