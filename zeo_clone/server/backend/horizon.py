"""How far clients see: a storage without the transactions that are not on the disk yet (D2).

In: questions about a storage, and from the loop's thread the first transaction that nobody may see.  Out:
answers as if there were no such transaction, nor any later one.  Any thread.
"""
from __future__ import annotations

from typing import Any

from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64, u64

#: A revision: data, serial and the tid of the next one, which is None of a current one.
Revision = tuple[bytes, bytes, bytes | None]


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
        hidden = self.hidden
        if hidden is not None:
            last = p64(u64(hidden) - 1)
            stop = last if stop is None else min(stop, last)
        return self._storage.iterator(start, stop)

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
