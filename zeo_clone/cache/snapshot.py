"""The index as it is written at a clean end and read at the next start.  Under the cache's lock.

The bytes are ``PageIndex.dump()``, ``Revisions.dump()``, ``Segments.dump()``, which files of older versions
have not and these skip, and the number of bytes used; they lie in the ring at the hand, where they cost the
oldest records.  The header has place, length and crc.
"""
from __future__ import annotations

import struct
from zlib import crc32

from zeo_clone.cache.book import Book
from zeo_clone.cache.format import ALIGN, Damaged

_USED = struct.Struct('<Q')
#: A snapshot may take at most this part of the ring; else the next start searches the file.
MAX_SHARE = 4


def write(book: Book) -> dict[str, int] | None:
    """Write the index into the ring; the header fields that tell where, None if it is too large."""
    segments, memory = book.file.segments, book.file.memory
    bound = (book.current.dumped_size() + book.older.dumped_size() + segments.dumped_size() + _USED.size)
    bound += -bound % ALIGN
    if bound * MAX_SHARE > book.ring.capacity:
        return None
    at = book.ring.make_room(bound, keep=0)
    book.file.flush()
    if memory is not None:
        segments.settle_all(memory)
    segments.changed(at, bound)
    raw = book.current.dump() + book.older.dump() + segments.dump() + _USED.pack(book.ring.used)
    book.file.write(raw.ljust(bound, b'\0'), at)  # all of it: images of evicted records are there
    return {'snapshot_at': at, 'snapshot_length': len(raw), 'snapshot_crc': crc32(raw)}


def read(book: Book) -> None:
    """Fill `book` from the place that the header of its file names.  Raises `Damaged`."""
    file, ring, header = book.file, book.ring, book.file.header
    raw = file.raw(header.snapshot_length, header.snapshot_at)
    if len(raw) != header.snapshot_length or crc32(raw) != header.snapshot_crc:
        raise Damaged(f'its index at {header.snapshot_at} is broken')
    try:
        at = book.current.load(raw)
        at = book.older.load(raw, at)
        file.segments.load(raw[at:-_USED.size])
        (ring.used,) = _USED.unpack(raw[-_USED.size:])
    except (struct.error, ValueError) as error:
        raise Damaged(f'its index at {header.snapshot_at} is broken: {error}') from error
    ring.write, ring.front = header.write, header.front
    if not file.base <= ring.write <= ring.front <= file.end or (ring.write | ring.front) % ALIGN:
        raise Damaged(f'its hand is at {ring.write}..{ring.front}')
