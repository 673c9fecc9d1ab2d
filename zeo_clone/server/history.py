"""The invalidation history of one storage: what the last transactions wrote (C7).

In: commits, in the order in which the storage made them.  Out: for a client whose cache is at some
transaction, what it has to forget to be at the last one.  Loop thread only.  It knows no client, no
socket and no storage; what it does not remember it says it does not know.  A tid that merely lies between
two of its transactions it does not remember: that may be of a past that a restored backup has undone (C22).
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterable

#: However many transactions are to be kept, not more oids than this: 1,000,000 take about 50 MB.
MAX_OIDS = 1_000_000

Entry = tuple[bytes, list[bytes]]


class History:
    """The last `size` transactions after `since`.  A tid is 8 bytes, an entry ``(tid, [oid, ...])``."""

    def __init__(self, size: int, since: bytes, entries: Iterable[Entry] = ()) -> None:
        self._size = size
        self._entries: deque[Entry] = deque()  # oldest first
        self._oids = 0
        self._since = since  # every transaction later than this is in _entries
        self.last_tid = since
        # Storages differ in which end comes first.
        for tid, oids in sorted(entries):
            if not self._entries and tid < since:
                # The oldest entry stands for itself only: what came before it may be missing.
                self._since = tid
            self.add(tid, list(oids))

    def __repr__(self) -> str:
        return f'<History of {len(self._entries)} transactions, {self._oids} oids>'

    def add(self, tid: bytes, oids: list[bytes]) -> None:
        """Transaction `tid` wrote `oids`."""
        self._entries.append((tid, oids))
        self._oids += len(oids)
        self.last_tid = max(self.last_tid, tid)
        while len(self._entries) > self._size or self._oids > MAX_OIDS:
            self._since, forgotten = self._entries.popleft()
            self._oids -= len(forgotten)

    def forget(self, last_tid: bytes) -> None:
        """Start anew at `last_tid`: what happened before is not known."""
        self._entries.clear()
        self._oids = 0
        self._since = self.last_tid = last_tid

    def after(self, tid: bytes) -> Entry | None:
        """``(last tid, oids written after tid)``; None if not all of them are remembered, or `tid` is not."""
        if not self._since <= tid <= self.last_tid:
            return None
        oids: dict[bytes, None] = {}
        for entry_tid, entry_oids in reversed(self._entries):
            if entry_tid <= tid:
                return (self.last_tid, list(oids)) if entry_tid == tid else None
            oids.update(dict.fromkeys(entry_oids))
        return (self.last_tid, list(oids)) if tid == self._since else None

    def latest(self, tid: bytes) -> bytes | None:
        """The last remembered transaction that is not later than `tid`; None if that is not known."""
        for entry_tid, _ in reversed(self._entries):
            if entry_tid <= tid:
                return entry_tid
        return self._since if self._since <= tid else None
