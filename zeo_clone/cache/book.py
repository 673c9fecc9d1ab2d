"""What the cache knows of revisions, and how that changes.  Under the lock of `ClientCache`.

In: revisions, ends, drops.  Out: places in the file.  `Book` joins file, index, non-current revisions and
ring, and keeps them free of contradictions: of an oid at most one current revision, and validity intervals
that do not overlap.  What contradicts is dropped, since the server has the truth (K4).  A place is taken
from the index before its bytes change.
"""
from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Iterable

from zeo_clone.cache.file import CacheFile
from zeo_clone.cache.format import ZERO, Damaged, Head, block_size
from zeo_clone.cache.index import FLAGS, PageIndex, Revisions
from zeo_clone.cache.ring import Ring
from zeo_clone.cache.trace import Trace

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Book:
    """The revisions in one cache file.

    A revision that cannot be written is not kept.  Every other change may raise ``OSError``; and each
    `Damaged`, if the file is not as we left it.
    """

    def __init__(self, file: CacheFile) -> None:
        self.file = file
        self.current = PageIndex()
        self.older = Revisions()
        self.ring = Ring(file, self.current, self.older)
        self.trace: Trace | None = None  # told of every change
        self.stores = self.invalidations = 0

    def __len__(self) -> int:
        return len(self.current) + len(self.older)

    # -- new revisions --------------------------------------------------------------------------------
    def store(self, oid: bytes, start_tid: bytes, end_tid: bytes | None, data: bytes) -> None:
        """Keep a revision, unless it is there, contradicts what is there, or is larger than the ring."""
        if end_tid is None:
            if ((self.current.get(oid) or oid in self.older.places)
                    and not self._accepts_current(oid, start_tid)):
                return
        elif not self._accepts_older(oid, start_tid, end_tid):
            return
        self._add(oid, start_tid, end_tid, data)

    def _add(self, oid: bytes, start_tid: bytes, end_tid: bytes | None, data: bytes) -> None:
        """Keep a revision that contradicts nothing."""
        self.stores += 1
        if self.trace is not None:
            self.trace.stored(oid, start_tid, end_tid, len(data))
        ring, file = self.ring, self.file
        need = block_size(len(data))
        try:
            if ring.front - ring.write < need:
                if need > ring.capacity:
                    return
                ring.make_room(need)
            at = ring.write
            file.append(oid, start_tid, end_tid or ZERO, data, at)
        except OSError as error:  # as if it had not been stored; a full disk must not stop the client
            self._unwritten(error)
            return
        ring.write += need
        ring.used += need
        if end_tid is None:
            self.current.set(oid, at)
        else:
            places = self.older.get(oid)
            self.older.insert(oid, bisect_left(places, start_tid, key=file.start_of), at)

    def _accepts_current(self, oid: bytes, start_tid: bytes) -> bool:
        """May a current revision be stored?  A current one that is older than it goes."""
        present = self.current.get(oid) & ~FLAGS
        if present:
            if self.file.start_of(present) >= start_tid:
                return False
            self._drop(oid, present)
        places = self.older.get(oid)
        return not places or self._head(oid, places[-1]).end_tid <= start_tid

    def _accepts_older(self, oid: bytes, start_tid: bytes, end_tid: bytes) -> bool:
        """May a revision with an end be stored?  A current one that contradicts it goes."""
        if start_tid >= end_tid:
            return False
        present = self.current.get(oid) & ~FLAGS
        if present:
            present_start = self.file.start_of(present)
            if present_start == start_tid:
                self.end((oid,), end_tid)
                return False
            if present_start < end_tid:
                self._drop(oid, present)
                if present_start > start_tid:
                    return False
        places = self.older.get(oid)
        index = bisect_left(places, start_tid, key=self.file.start_of)
        if index and self._head(oid, places[index - 1]).end_tid > start_tid:
            return False
        return index == len(places) or self.file.start_of(places[index]) >= end_tid

    def add(self, tid: bytes, records: list[tuple[bytes, bytes]], ended: set[bytes]) -> None:
        """The new revisions of an own commit, after `end` has `ended` those before."""
        for oid, data in records:
            if oid in ended:
                ended.remove(oid)
                self._add(oid, tid, None, data)
            else:
                self.store(oid, tid, None, data)

    # -- ends -----------------------------------------------------------------------------------------
    def end(self, oids: Iterable[bytes], tid: bytes | None) -> list[tuple[bytes, int]]:
        """The current revisions of `oids` end at `tid`; None: they are dropped.  Oid and place of each.

        First in memory, for all, then in the file: if that fails readers see none of them any more.
        """
        self.flush()
        ended = []
        for oid in oids:
            at = self.current.get(oid) & ~FLAGS
            if not at or (tid is not None and self.file.start_of(at) >= tid):
                continue
            self.current.remove(oid)
            if tid is not None:
                self.older.insert(oid, len(self.older.get(oid)), at)
            ended.append((oid, at))
            if self.trace is not None:
                self.trace.invalidated(oid, tid)
        self.invalidations += len(ended)
        for oid, at in ended:
            self._mark(oid, at, tid)
        return ended

    def _mark(self, oid: bytes, at: int, end_tid: bytes | None) -> None:
        """Write the end of the record at `at`; None: it is to be forgotten."""
        ends = self.file.ends
        if ends is not None and end_tid is not None:
            ends[at] = end_tid
            return
        head = self._head(oid, at)
        if end_tid is None:
            self.ring.used -= block_size(head.length)
            end_tid = head.start_tid
        if ends is None:
            self.file.write_end(at, head, end_tid)

    def _head(self, oid: bytes, at: int) -> Head:
        head = self.file.head_at(at)
        if head is None or head.oid != oid:
            raise Damaged(f'no record of object {oid.hex()} at {at}')
        return head

    def _drop(self, oid: bytes, at: int) -> None:
        self.current.remove(oid)
        self._mark(oid, at, None)

    def drop_damaged(self, oid: bytes, at: int) -> None:
        """Forget the revision at `at`, which could not be read, if it is still there."""
        if self.current.get(oid) & ~FLAGS != at and at not in self.older.get(oid):
            return
        self._head(oid, at)
        if not self.older.discard(oid, at):
            self.current.remove(oid)
        self.file.warn('record', 'has a damaged record of object %s at %d; it was dropped.', oid.hex(), at)
        self._mark(oid, at, None)

    def clear(self) -> None:
        """Forget everything; the next header makes that last."""
        if self.trace is not None:
            self.trace.cleared()
        self.file.abandon()
        self.current.clear()
        self.older.clear()
        self.ring.clear()
        self.file.frozen = False
        self.file.new_salt()

    # -- what was appended to the file and is not yet written -------------------------------------------
    def flush(self) -> None:
        """Write what was appended; what cannot be written is forgotten."""
        try:
            self.file.flush()
        except OSError as error:
            self._unwritten(error)
        self.arrive()

    def _unwritten(self, error: OSError) -> None:
        """Forget what was appended.  If the disk was full where the file grows, the ring ends there now."""
        self.file.warn('file', 'cannot be written: %s.  This process goes on with what fits; the next one '
                       'will find the cache as of now, or older.', error)
        self.file.frozen = True
        ring, lost = self.ring, self.file.abandon()
        for oid, at in lost:
            if self.current.get(oid) & ~FLAGS == at:
                self.current.remove(oid)
            else:
                self.older.discard(oid, at)
        if lost:
            ring.used -= ring.write - lost[0][1]
            ring.write = lost[0][1]
        if error.errno in _NO_SPACE and ring.front == self.file.end:
            ring.front = self.file.end = ring.write

    def arrive(self) -> None:
        """The records written since are in memory, too."""
        if self.file.arrived:
            self.trust(self.file.arrived)
            self.file.arrived.clear()

    def trust(self, places: list[tuple[bytes, int]]) -> None:
        """Read these records from memory from now on, where they are still current."""
        if self.file.memory is not None:
            self.current.flag(places)

    # -- records that were read from the file and found whole -------------------------------------------
    def moment(self) -> tuple[object, ...]:
        """Differs from an earlier one if anything was written since, or waits to be."""
        return self.ring.mark(), self.ring.write, self.file.writes

    def remember(self, raw: bytes, at: int, places: list[tuple[bytes, int]]) -> None:
        """Keep what was read at `at`, with these records in it, in memory."""
        if self.file.memory is not None:
            self.file.remember(raw[:self.file.end - at], at)
            self.trust(places)

    def empty_memory(self) -> None:
        """Every record is to be read from the file again.  Hidden from readers without the lock."""
        self.arrive()
        self.current.unflag()
        self.file.empty_memory()
