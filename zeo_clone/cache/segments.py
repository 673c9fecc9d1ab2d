"""Pieces of a cache's file that are checked as a whole, by one crc of their bytes as of the last clean end.

In: what is written and what was read.  Out: which records may be read from memory without a look at each.
Under the cache's lock; `check` in any thread, and readers without the lock look at ``whole``.

A crc is made of what is in memory, never of what is in the file: it covers what was written or checked
by this process, and whatever the disk does to it later does not match.  Segments that do not match, or of
which no crc is known because the index was written there or the process was killed, are checked record by
record.
"""
from __future__ import annotations

import mmap
import sys
from array import array
from zlib import crc32

#: A place in the file, shifted by this, is the number of its segment.
SHIFT = 14
SIZE = 1 << SHIFT
#: At least so many are read: the last record of one goes on in the next.  And at most so many: that takes a
#: tenth of a millisecond.
PAIR, MOST = 2, 8


class Segments:
    """Those of a ring that ends at `end`.  The first has the header in it and never takes part.

    ``sums``: crcs of those in the file, 0 where none is known.  ``known``: memory has all bytes, and they are
    true.  ``whole``: known, and so is the next one, and no new records go there; so readers find in memory
    whatever record begins there and is not longer than a segment.
    """

    def __init__(self, end: int) -> None:
        self.end = end
        self._count = (end + SIZE - 1) >> SHIFT
        self.sums = array('I', bytes(4 * self._count))
        self.known = bytearray(self._count) + b'\1'  # nothing goes on behind the last one
        self.whole = bytearray(self._count)
        self._run = 0, 0  # what the hand has written without a gap

    # -- what is written ------------------------------------------------------------------------------
    def changed(self, at: int, length: int) -> None:
        """The file has other bytes there."""
        for number in range(at >> SHIFT, ((at + length - 1) >> SHIFT) + 1):
            self.sums[number] = 0

    def appended(self, at: int, length: int) -> range:
        """The hand has written there, into the file and into memory; the segments that are known by that."""
        begin, end = self._run
        begin, end = at if at != end else begin, at + length
        new = range((begin + SIZE - 1) >> SHIFT, self._count if end == self.end else end >> SHIFT)
        for number in new:
            self.known[number] = 1
        self._run = new.stop << SHIFT if new else begin, end
        return new

    def passed(self, at: int, to: int) -> None:
        """New records will go between these places."""
        for number in range(at >> SHIFT, min((to >> SHIFT) + 1, self._count)):
            self.whole[number] = 0

    def emptied(self) -> None:
        """Memory has nothing any more."""
        self.known[:-1] = self.whole[:] = bytes(self._count)
        self._run = 0, 0

    # -- checking ---------------------------------------------------------------------------------------
    def wanted(self, at: int, count: int) -> tuple[int, list[int]]:
        """What to read for the record at `at`: number of the first segment, crcs of `count` at most."""
        first = stop = (at >> SHIFT) + self.known[at >> SHIFT]
        last = min(first + count, self._count)
        while stop < last and self.sums[stop] and not self.known[stop]:
            stop += 1
        return first, self.sums[first:stop].tolist()

    def piece(self, first: int, count: int) -> tuple[int, int]:
        """Length and place of `count` segments."""
        return min((first + count) << SHIFT, self.end) - (first << SHIFT), first << SHIFT

    def believe(self, first: int, sums: list[int], good: list[bool], raw: bytes, memory: mmap.mmap,
                write: int, front: int) -> None:
        """Put what `check` found `good` of `raw` into memory.  The hand is at ``write .. front``."""
        view = memoryview(raw)
        for number, (checked, is_good) in enumerate(zip(sums, good, strict=True), first):
            if self.sums[number] != checked or self.known[number]:
                continue  # written or believed meanwhile
            if is_good:
                data = view[(number - first) << SHIFT:(number - first + 1) << SHIFT]
                memory[number << SHIFT:(number << SHIFT) + len(data)] = data
                self.known[number] = 1
            else:
                self.sums[number] = 0
        for number in range(first - 1, first + len(sums)):
            if not write >> SHIFT <= number <= front >> SHIFT:
                self.whole[number] = self.known[number] & self.known[number + 1]

    # -- at a clean end -----------------------------------------------------------------------------------
    def settle(self, numbers: range, memory: mmap.mmap) -> None:
        """Make the crcs of those `numbers` that are known."""
        with memoryview(memory) as view:
            for number in numbers:
                if self.known[number] and not self.sums[number]:
                    self.sums[number] = crc32(view[number << SHIFT:min((number + 1) << SHIFT, self.end)])

    def settle_all(self, memory: mmap.mmap) -> None:
        self.settle(range(self._count), memory)

    def dumped_size(self) -> int:
        """The length of `dump`'s result."""
        return 4 * self._count

    def dump(self) -> bytes:
        return _little(self.sums).tobytes()

    def load(self, raw: bytes) -> None:
        """Read what `dump` wrote; nothing was, if an older version did it.  Raises ``ValueError``."""
        if raw:
            if len(raw) != self.dumped_size():
                raise ValueError(f'{len(raw)} bytes of crcs')
            self.sums = _little(array('I', raw))


def check(sums: list[int], raw: bytes) -> list[bool]:
    """Which of the segments that were read have these crcs?"""
    view = memoryview(raw)
    return [crc32(view[at << SHIFT:(at + 1) << SHIFT]) == checked for at, checked in enumerate(sums)]


def _little(sums: array[int]) -> array[int]:
    """`sums` itself, or on a big-endian machine a copy with its bytes turned."""
    if sys.byteorder == 'big':
        sums = sums[:]
        sums.byteswap()
    return sums
