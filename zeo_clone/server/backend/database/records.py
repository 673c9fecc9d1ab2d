"""The server's own cache of current records, and of some that were current.

In: records that were read as current, and word of what was changed.  Out: current records, as of the last
transaction that has been told; older ones, to resolve conflicts with, where a database has no history.
Bounded by bytes; who was used longest ago goes first.  Loop thread, apart from `old`.
"""
from __future__ import annotations

from collections import OrderedDict

#: What a record costs besides its bytes.
OVERHEAD = 200
#: This part of the room is for records that are not current any more.
OLD_PART = 8


class Records:
    """With room for `size` bytes."""

    def __init__(self, size: int) -> None:
        self._room_old = size // OLD_PART
        self._room = size - self._room_old
        self._current: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()  # oid: record, serial
        self._old: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()  # (oid, serial): record
        self.used = self._used_old = 0
        self.hits = self.misses = 0

    def __repr__(self) -> str:
        return f'<Records {len(self._current)}, {self.used} bytes>'

    def __len__(self) -> int:
        return len(self._current)

    def get(self, oid: bytes) -> tuple[bytes, bytes] | None:
        """The current record and its serial; None if it is not here."""
        found = self._current.get(oid)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._current.move_to_end(oid)
        return found

    def put(self, oid: bytes, record: bytes, serial: bytes) -> None:
        """It is current."""
        size = OVERHEAD + len(record)
        if size > self._room:
            return
        self._drop(oid)
        self._current[oid] = record, serial
        self.used += size
        while self.used > self._room:
            _, (dropped, _) = self._current.popitem(last=False)
            self.used -= OVERHEAD + len(dropped)

    def _drop(self, oid: bytes) -> tuple[bytes, bytes] | None:
        found = self._current.pop(oid, None)
        if found is not None:
            self.used -= OVERHEAD + len(found[0])
        return found

    def changed(self, tid: bytes, oids: list[bytes]) -> None:
        """Transaction `tid` wrote `oids`: what is older is not current any more."""
        current = self._current
        for oid in oids:
            found = current.get(oid)
            if found is not None and found[1] < tid:
                self._drop(oid)
                self._keep_old(oid, *found)

    def _keep_old(self, oid: bytes, record: bytes, serial: bytes) -> None:
        size = OVERHEAD + len(record)
        if size > self._room_old or (oid, serial) in self._old:
            return
        self._old[oid, serial] = record
        self._used_old += size
        while self._used_old > self._room_old:
            _, dropped = self._old.popitem(last=False)
            self._used_old -= OVERHEAD + len(dropped)

    def clear(self) -> None:
        """Nothing is known any more."""
        self._current.clear()
        self._old.clear()
        self.used = self._used_old = 0

    # ---- any thread -------------------------------------------------------------------------------

    def old(self, oid: bytes, serial: bytes) -> bytes | None:
        """The record of that revision, if it is here."""
        found = self._current.get(oid)
        if found is not None and found[1] == serial:
            return found[0]
        return self._old.get((oid, serial))
