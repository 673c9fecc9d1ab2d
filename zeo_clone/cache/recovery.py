"""The index after an unclean end: every valid record in the ring, freed of contradictions.

In: a file whose header was read.  Out: the book filled; the file has a free block wherever there is no
record, and a mark on each record that was dropped, so that (1) of `format` holds.  In the opening thread,
before anybody else knows the cache.
"""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from zlib import crc32

from zeo_clone.cache import format as fmt
from zeo_clone.cache.book import Book
from zeo_clone.cache.file import CacheFile
from zeo_clone.cache.format import ZERO, Damaged, Head

#: The ring is read in pieces of this size, plus what a record at the end of a piece needs.
PIECE = 1 << 20


def recover(book: Book, last_tid: bytes) -> None:
    """Fill `book`, which is empty, from the records in its file; `last_tid` is believed."""
    file, ring, index, older = book.file, book.ring, book.current, book.older
    gaps = []
    end = file.base
    for at, size, head in scan(file):
        if at > end:
            gaps.append((end, at - end))
        end = at + size
        if head.end_tid == ZERO and head.start_tid <= last_tid and not index.get(head.oid):
            index.set(head.oid, at)  # the common case; what follows deals with the others, too
            ring.used += size
        elif head.end_tid != head.start_tid:
            if _admit(book, at, head, last_tid):
                ring.used += size
            else:
                _forget(file, at, head)
    if end < file.end:
        gaps.append((end, file.end - end))
    for at, length in gaps:
        file.write(fmt.free_block(file.salt, at, length), at)
    if older:
        _resolve(book)
    _place_hand(book, gaps)


def scan(file: CacheFile) -> Iterator[tuple[int, int, Head]]:
    """``(place, size of the block, head)`` of all valid records, ascending.

    Looks at each place that could be one, inside torn records and free blocks too, but not inside valid ones.
    """
    salt, ring_end = file.salt, file.end
    at = origin = file.base
    window = b''
    while at < ring_end:
        offset = at - origin
        if offset + fmt.HEAD_SIZE > len(window):
            origin, offset = at, 0
            window = _piece(file, min(PIECE, ring_end - at), at)
        head = fmt.parse_head(salt, at, window[offset:offset + fmt.HEAD_SIZE])
        if head is None:
            found = window.find(fmt.RECORD_MAGIC, offset + 1)
            # none: go on a little before the end of the window, which may cut one
            at = origin + found if found >= 0 else max(at + 1, origin + len(window) - 3)
            at += (origin - at) % fmt.ALIGN
            continue
        size = fmt.block_size(head.length)
        if at + size > ring_end:
            at += fmt.ALIGN
            continue
        data_end = offset + fmt.HEAD_SIZE + head.length
        if data_end > len(window):
            origin, offset, data_end = at, 0, data_end - offset
            window = _piece(file, min(max(PIECE, data_end), ring_end - at), at)
        if crc32(window[offset + fmt.HEAD_SIZE:data_end]) == head.data_crc:
            yield at, size, head
            at += size
        else:
            at += fmt.ALIGN


def _piece(file: CacheFile, length: int, at: int) -> bytes:
    piece = file.raw(length, at)
    if len(piece) != length:
        raise Damaged(f'it ends at {at + len(piece)}')
    return piece


def _forget(file: CacheFile, at: int, head: Head) -> None:
    file.write_end(at, head, head.start_tid)


def _admit(book: Book, at: int, head: Head, last_tid: bytes) -> bool:
    """Enter the record at `at`, of which the index knows nothing yet; False if it is to be forgotten."""
    if not head.current:
        return _admit_older(book, at, head)
    oid = head.oid
    if head.start_tid > last_tid:
        return False
    other = book.current.get(oid)
    if other:
        other_head = book.file.head_at(other)
        if other_head is not None:
            if other_head.start_tid >= head.start_tid:
                return False
            _drop(book, oid, other, other_head)
    book.current.set(oid, at)
    return True


def _admit_older(book: Book, at: int, head: Head) -> bool:
    file, places = book.file, book.older.get(head.oid)
    index = bisect_left(places, head.start_tid, key=file.start_of)
    before = file.head_at(places[index - 1]) if index else None
    if before is not None and before.end_tid > head.start_tid or head.end_tid < head.start_tid:
        return False
    if index < len(places) and file.start_of(places[index]) < head.end_tid:
        return False
    book.older.insert(head.oid, index, at)
    return True


def _drop(book: Book, oid: bytes, at: int, head: Head) -> None:
    book.current.remove(oid)
    book.ring.used -= fmt.block_size(head.length)
    _forget(book.file, at, head)


def _resolve(book: Book) -> None:
    """Drop the current revision of each oid that has another one which ended after it starts."""
    for oid in book.older.places:
        current = book.current.get(oid)
        if current:
            head, newest = book.file.head_at(current), book.file.head_at(book.older.get(oid)[-1])
            if head is not None and newest is not None and newest.end_tid > head.start_tid:
                _drop(book, oid, current, head)


def _place_hand(book: Book, gaps: list[tuple[int, int]]) -> None:
    """The hand goes to the free space at or after the place where it was last known to be."""
    ring, last_known = book.ring, book.file.header.write
    ring.write = ring.front = book.file.base
    for at, length in gaps:
        ring.write, ring.front = at, at + length
        if at + length > last_known:
            return
