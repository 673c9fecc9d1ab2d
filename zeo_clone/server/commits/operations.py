"""What a client wants its transaction to do, kept until the vote: in memory, then in a spool file.

In: operations, one by one.  Out: the same ones, in order, as often as asked for.  An operation is a
tuple ``(verb, oid, serial, data, extra)`` of plain values; this module does not know what a verb
means.  The file is an unnamed temporary one of our own, gone with its descriptor, so that no clean-up
can be forgotten. Loop thread only.
"""
from __future__ import annotations

import contextlib
import errno
import marshal
from collections.abc import Callable, Iterator
from typing import IO, Protocol

from ZODB.POSException import StorageError

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.commits.uploads import Uploads
from zeo_clone.server.vocabulary import Operation

#: Operations are kept in memory up to this many bytes (L7); beyond, they go to the spool file in pieces
#: of this size.  A thousand records of 1,000 bytes stay in memory.
SPOOL_SIZE = 4 << 20
#: One transaction holds at most this many bytes: no disk should be filled by a client gone wild.
MAX_SIZE = 64 << 30
#: What an operation costs besides its record.
OVERHEAD = 200
#: What is kept in memory is counted in steps of so many bytes: this happens for each object.
STEP = 16 << 10


class Share(Protocol):
    """What one client has waiting, counted."""

    def add(self, size: int) -> None:
        """So many more bytes; or less, if it is negative."""


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
