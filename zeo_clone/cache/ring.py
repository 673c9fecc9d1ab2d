"""Which place in the file is used next: a ring with a hand, and a second chance for hot records.

The free space at the hand is ``write .. front``.  `make_room` widens it by passing blocks at ``front``:
cold records are forgotten, hot ones are kept, moved down to ``write`` if there is a gap, and must be read
again before the hand comes back.  Whoever calls it holds the cache's lock and has hidden the index from
readers without it.
"""
from __future__ import annotations

from zeo_clone.cache import format as fmt
from zeo_clone.cache.file import CacheFile
from zeo_clone.cache.format import Damaged, Head, block_size
from zeo_clone.cache.index import FLAGS, TRUSTED, PageIndex, Revisions

#: One byte says whether anything was read in that many bytes (a power of 2) since the hand passed.
HEAT_SHIFT = 9
#: So many hot records may be kept while room is made for one; then a hot one goes too.  Bounds the time of
#: a store.
KEEP_LIMIT = 256


class Ring:
    """Allocation in one file.

    ``used`` are the bytes of the blocks that the index knows.  ``passed`` is how far ``front`` has come
    since the start, over all laps: it tells a reader whether a place may have been overwritten meanwhile.
    """

    def __init__(self, file: CacheFile, index: PageIndex, revisions: Revisions) -> None:
        self._file = file
        self._index = index
        self._revisions = revisions
        self.heat = bytearray()  # any thread may set an item to 1
        self.resized()
        self.write = file.base
        self.front = file.end
        self.passed = 0
        self.used = 0
        self.evictions = 0

    @property
    def capacity(self) -> int:
        return self._file.end - self._file.base

    def resized(self) -> None:
        """The file has another size."""
        self.heat = bytearray((self._file.end >> HEAT_SHIFT) + 1)

    def clear(self) -> None:
        """All is free."""
        self.write, self.front = self._file.base, self._file.end
        self.passed += self.capacity
        self.used = 0

    def mark(self) -> tuple[int, int]:
        """A mark of the present state, for `overwrote`."""
        return self.front, self.passed

    def overwrote(self, at: int, mark: tuple[int, int]) -> bool:
        """May the record that was at `at` at the time of `mark` have been overwritten since?"""
        front, passed = mark
        moved = self.passed - passed
        return moved > 0 and (at - front) % self.capacity < moved

    def make_room(self, need: int, keep: int = KEEP_LIMIT) -> int:
        """Make `need` bytes free, at most `capacity`; return where.

        The caller writes all of them, because there are images of evicted records, and moves ``write`` on.
        Raises `Damaged` if the file was changed by somebody else.
        """
        while self.front - self.write < need:
            if self.write + need > self._file.end:
                self._wrap()
            elif self._pass_block(keep > 0):
                keep -= 1
        return self.write

    def _wrap(self) -> None:
        self._file.flush()  # what was appended must end at `write`, should it have to be given up
        gap = self.front - self.write
        if gap:  # zeros: it may hold images of records that are not in the index
            head = fmt.free_block(self._file.salt, self.write, gap)
            self._file.write_block(head + bytes(gap - len(head)), self.write)
        self.passed += self._file.end - self.front
        self.write = self.front = self._file.base

    def _pass_block(self, may_keep: bool) -> bool:
        """Move ``front`` over one block.  True if its record was kept."""
        at = self.front
        if self._file.ends:
            self._file.ends.pop(at, None)
        head = self._file.head_at(at)
        if head is None:
            length = self._file.free_at(at)
            if not length:
                raise Damaged(f'no block at {at}')
            self._advance(length)
            return False
        size = block_size(head.length)
        place = self._index.get(head.oid)
        if place & ~FLAGS == at:
            if may_keep and self.heat[at >> HEAT_SHIFT]:
                self._keep(at, size, head, place)
                return True
            self._index.remove(head.oid)
        elif not self._revisions.discard(head.oid, at):
            self._advance(size)  # forgotten already
            return False
        self.used -= size
        self.evictions += 1
        self._advance(size)
        return False

    def _keep(self, at: int, size: int, head: Head, place: int) -> None:
        self._file.flush()  # as in `_wrap`
        to = self.write
        self._advance(size)
        if to != at:
            self._index.remove(head.oid)  # for good, if the write fails
            self.used -= size
            data = self._file.body_at(at, head, bool(place & TRUSTED))
            if data is None:
                return
            self._file.write_block(fmt.pack_head(self._file.salt, to, head) + data, to)
            self.used += size
        self._index.set(head.oid, to | place & TRUSTED)
        self.write += size

    def _advance(self, length: int) -> None:
        cell = self.front >> HEAT_SHIFT
        self.front += length
        self.passed += length
        cells = (self.front >> HEAT_SHIFT) - cell
        if cells:
            self.heat[cell:cell + cells] = bytes(cells)
            self._file.segments.passed(self.front - length, self.front)
