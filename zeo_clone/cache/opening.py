"""From a path and a size to a cache that can be used: new, clean, unclean, damaged, resized.

In the thread that makes the `ClientCache`, before anybody else knows it.  Afterwards the file says
that it is in use (not clean), and that is synced.
"""
from __future__ import annotations

from zeo_clone.cache import format as fmt
from zeo_clone.cache import recovery, snapshot
from zeo_clone.cache.book import Book
from zeo_clone.cache.file import CacheFile, logger
from zeo_clone.cache.format import ZERO, Damaged, block_size
from zeo_clone.loop.runtime import Runtime


def open_cache(runtime: Runtime, path: str | None, size: int) -> tuple[Book, bytes]:
    """The book of the cache at `path`, or of a new temporary one for None; and its last tid.

    Raises `CacheLocked`, and ``OSError`` if the file cannot be made, read or written.
    """
    if path is None:
        return Book(CacheFile.temporary(runtime, size)), ZERO
    size = max(size, fmt.BASE_FILE)
    file = CacheFile.open(runtime, path, size)
    try:
        try:
            book = Book(file)
            last_tid = _load(book)
            if size != file.header.size:
                _resize(book, last_tid, size)
            _announce(book, last_tid, size)
        except (Damaged, OSError) as error:
            file = file.replaced(size, error)
            book, last_tid = Book(file), ZERO
            _announce(book, last_tid, size)
    except BaseException:
        file.close()
        raise
    return book, last_tid


def _load(book: Book) -> bytes:
    """Fill `book` from its file; the last tid to be believed."""
    file, header = book.file, book.file.header
    if header.clean:
        snapshot.read(book)
        return header.last_tid
    same = any(header.identity) and header.identity == file.identity()
    last_tid = header.last_tid if same else header.durable_tid
    if last_tid == ZERO:
        file.new_salt()
        return ZERO
    recovery.recover(book, last_tid)
    logger.info('The cache file %s was not closed; %d revisions as of transaction %s were found in it.',
                file.path, len(book), last_tid.hex())
    return last_tid


def _announce(book: Book, last_tid: bytes, size: int) -> None:
    """Say in the file that it is in use: first sync what is there, then the mark, then sync that."""
    file, ring = book.file, book.ring
    file.sync()
    file.write_header(
        size=size, salt=file.salt, clean=0, identity=file.identity(), write=ring.write,
        front=ring.front, last_tid=last_tid, durable_tid=last_tid)
    file.sync()
    if file.outdated:
        file.write_header()  # the other slot
        file.sync()
        file.outdated = False


def _resize(book: Book, last_tid: bytes, size: int) -> None:
    """Make the ring longer or shorter in place; what lies behind its new end is forgotten."""
    file, ring = book.file, book.ring
    old_end = file.end
    if size > file.header.size:
        file.resize(size)
        ring.resized()
        if ring.front == old_end:
            ring.front = file.end
        elif file.end > old_end:
            _free(file, old_end)
        return
    kept_end = _forget_behind(book, file.ring_end(size))
    _announce(book, last_tid, size)
    file.resize(size)
    ring.resized()
    if ring.write >= kept_end:
        ring.write, ring.front = kept_end, file.end
    elif kept_end < file.end:
        _free(file, kept_end)


def _free(file: CacheFile, at: int) -> None:
    """Everything from `at` on is one free block."""
    file.write(fmt.free_block(file.salt, at, file.end - at), at)


def _forget_behind(book: Book, end: int) -> int:
    """Forget all records that end behind `end`; the end of the last one that is left."""
    file = book.file
    places = [(place, oid) for oid, place in book.current.items()]
    places += [(place, oid) for oid in book.older.places for place in book.older.get(oid)]
    for place, oid in sorted(places, reverse=True):
        head = file.head_at(place)
        if head is None:
            raise Damaged(f'no record at {place}')
        block_end = place + block_size(head.length)
        if block_end <= end:
            return block_end
        if not book.older.discard(oid, place):
            book.current.remove(oid)
        book.ring.used -= block_end - place
        file.write_end(place, head, head.start_tid)
    return file.base
