"""The invalidation history of one storage: what the last transactions wrote (C7).

In: commits, in the order in which the storage made them.  Out: for a client whose cache is at some
transaction, what it has to forget to be at the last one.  Loop thread only.  It knows no client, no
socket and no storage; what it does not remember it says it does not know.  A tid that merely lies between
two of its transactions it does not remember: that may be of a past that a restored backup has undone (C22).
"""
from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator

from zeo_clone.zrpc.marshal import Encoded, ListEncoder

#: However many transactions are to be kept, not more oids than this: 1,000,000 take about 50 MB.
MAX_OIDS = 1_000_000
#: Oids of an answer between two pauses: less than half a millisecond.
PART = 2500
#: As so many oids counts a transaction.
ENTRY = 10

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

    def knows(self, tid: bytes) -> bool:
        """Is `tid` one of the transactions, or the one before them, and all after it remembered?"""
        return tid in (self._since, self.last_tid) or any(tid == entry_tid for entry_tid, _ in self._entries)

    def latest(self, tid: bytes) -> bytes | None:
        """The last remembered transaction that is not later than `tid`; None if that is not known."""
        for entry_tid, _ in reversed(self._entries):
            if entry_tid <= tid:
                return entry_tid
        return self._since if self._since <= tid else None

    def after(self, tid: bytes, before: Iterable[bytes] = ()) -> Generator[None, None, Encoded | None]:
        """``(last tid, oids written after tid)``, encoded; None if not all of them are remembered.

        A generator that returns it: 1,000,000 oids take half a second, so there is a pause after each `PART`.
        What is committed meanwhile is in the answer, which holds at the moment in which it is returned.
        `before`: what was written before `tid` and is to be told as well.
        """
        told: set[bytes] = set()
        answer, room = ListEncoder(), PART
        fresh: Iterable[list[bytes]] = [list(before)]
        while True:
            for oids in fresh:
                for start in range(0, len(oids), PART):
                    if room <= 0:
                        yield
                        room = PART
                    new = [oid for oid in dict.fromkeys(oids[start:start + PART]) if oid not in told]
                    told.update(new)
                    answer.extend(new)
                    room -= PART if start else min(len(oids), PART) + ENTRY
            if not self.knows(tid):
                return None
            if tid == self.last_tid:
                return answer.encoded(tid)
            fresh, tid = self._written_after(tid), self.last_tid

    def _written_after(self, tid: bytes) -> Iterator[list[bytes]]:
        """The oids of each transaction later than `tid`, the last one first."""
        for entry_tid, oids in reversed(list(self._entries)):
            if entry_tid <= tid:
                break
            yield oids
