"""How far clients see: a storage without the transactions that are not on the disk yet (D2).

In: questions about a storage, and from the loop's thread the first transaction that nobody may see.  Out:
answers as if there were no such transaction, nor any later one.  Any thread, apart from the reader of current
records, which is the loop's.
"""
from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import IO, Any

from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64, u64

from zeo_clone.server.backend.finished import transactions

#: A revision: data, serial and the tid of the next one, which is None of a current one.
Revision = tuple[bytes, bytes, bytes | None]

#: The head of a record: oid, tid, place of the one before, of the transaction, a zero, length of the data.
_HEAD = Struct('>8s8sQQHQ')
HEAD_SIZE = 42
assert _HEAD.size == HEAD_SIZE
_unpack_head = _HEAD.unpack_from
#: So much is read at once; what is longer takes a second call.
READ_SIZE = 4096


class Horizon:
    """`storage`, a FileStorage, up to before the transaction `hidden`; all of it if that is None."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.hidden: bytes | None = None

    def __repr__(self) -> str:
        return f'<Horizon {"open" if self.hidden is None else self.hidden.hex()}>'

    def hides(self, tid: bytes) -> bool:
        """Is the transaction `tid` one that nobody may see?"""
        hidden = self.hidden
        return hidden is not None and tid >= hidden

    def loadBefore(self, oid: bytes, tid: bytes) -> Revision | None:
        """The revision before `tid`; None if there is none.  Raises POSKeyError."""
        hidden = self.hidden
        if hidden is None:
            found: Revision | None = self._storage.loadBefore(oid, tid)
            return found
        found = self._storage.loadBefore(oid, min(tid, hidden))
        if found is None:
            if tid >= hidden:
                raise POSKeyError(oid)  # it is new
        elif found[2] is not None and found[2] >= hidden:
            return found[0], found[1], None
        return found

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        """The data of a revision.  Raises POSKeyError."""
        if self.hides(serial):
            raise POSKeyError(oid)
        data: bytes = self._storage.loadSerial(oid, serial)
        return data

    def getTid(self, oid: bytes) -> bytes:
        """The serial of the current revision.  Raises POSKeyError."""
        if self.hidden is None:
            tid: bytes = self._storage.getTid(oid)
            return tid
        revision = self.loadBefore(oid, maxtid)
        if revision is None:
            raise POSKeyError(oid)
        return revision[1]

    def loadBlob(self, oid: bytes, serial: bytes) -> str:
        """The path of a blob.  Raises POSKeyError."""
        if self.hides(serial):
            raise POSKeyError(oid)
        path: str = self._storage.loadBlob(oid, serial)
        return path

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> Any:
        """The transactions from `start` to `stop`."""
        return transactions(self._storage, start, stop, self._last)

    def _last(self) -> bytes | None:
        hidden = self.hidden
        return None if hidden is None else p64(u64(hidden) - 1)

    def record_iternext(self, next: bytes | None = None) -> tuple[bytes, bytes, bytes, bytes | None]:
        """The first object from the oid `next` on: oid, serial, data and the oid to go on with, or None.

        Raises ValueError if there is no object.
        """
        found = self._record_from(next)
        if found is None:
            raise ValueError('there are no more objects')
        oid, tid, data, following = found
        if following is not None and self.hidden is not None:
            visible = self._record_from(following)
            following = None if visible is None else visible[0]
        return oid, tid, data, following

    def _record_from(self, oid: bytes | None) -> tuple[bytes, bytes, bytes, bytes | None] | None:
        while True:
            found, tid, data, following = self._storage.record_iternext(oid)
            try:
                if self.hides(tid) and (revision := self.loadBefore(found, maxtid)) is not None:
                    data, tid, _ = revision
                return found, tid, data, following
            except POSKeyError:  # it is new
                if following is None:
                    return None
                oid = following


class CurrentRecords:
    """Current records by one system call each, without the storage's pool of files.

    ZODB has a reader wait while an index is changed or replaced, with a lock and two context managers for
    each load.  Here an index, which `find` asks, and its `file` are taken together, and taken anew when the
    storage has another index: a pack replaces both.  What is read from the two is what was there when the
    load began.  Nothing is kept of the file but its descriptor, so that nothing has to be forgotten.  One
    thread at a time.
    """

    def __init__(self, find: Callable[[bytes], int | None], file: IO[bytes],
                 pread: Callable[[int, int, int], bytes]) -> None:
        self.find = find
        self._file = file
        self._fd = file.fileno()
        self._pread = pread

    def __repr__(self) -> str:
        return f'<CurrentRecords of fd {self._fd}>'

    def load(self, oid: bytes, before: bytes) -> Revision | None:
        """The current revision, if it is older than `before` and as plain as most are.

        None where ZODB's own way has to be taken: an older one, one that was undone, one that is damaged.
        """
        place = self.find(oid)
        if place is None:
            return None
        raw = self._pread(self._fd, READ_SIZE, place)
        if len(raw) < HEAD_SIZE:
            return None
        found, tid, _, _, _, length = _unpack_head(raw)
        if found != oid or tid >= before or not length:
            return None
        data = raw[HEAD_SIZE:HEAD_SIZE + length]
        if len(data) < length:
            data += self._pread(self._fd, length - len(data), place + HEAD_SIZE + len(data))
            if len(data) < length:
                return None
        return data, tid, None

    def close(self) -> None:
        """Nothing more is read."""
        self._file.close()


class CurrentReader:
    """What clients may see of `storage`, a `GroupCommitStorage`, up to `horizon`.  Loop thread only."""

    def __init__(self, storage: Any, horizon: Horizon) -> None:
        self._current = storage.current
        self._horizon = horizon

    def __repr__(self) -> str:
        return f'<CurrentReader up to {self._horizon!r}>'

    def loadBefore(self, oid: bytes, tid: bytes) -> Revision | None:
        """The revision before `tid`; None if there is none.  Raises POSKeyError."""
        hidden = self._horizon.hidden
        records = self._current()
        found = None if records is None else records.load(oid, tid if hidden is None else min(tid, hidden))
        return self._horizon.loadBefore(oid, tid) if found is None else found
