"""`ClientCache`: the threads around a `Book`, and when the last tid moves.

In: revisions from load replies and own commits, invalidations, the last tid.  Out: revisions.  Any thread
may call any method.  Knows nothing of the network; who may store and when is the client's business.

Threads.  Changes happen under one lock.  A current record that was written or checked since the start is
served without it: ``_view`` holds what such a reader needs.  Whoever forgets or moves records, or changes
several at once, puts `HIDDEN` there first and a *new* tuple afterwards.  A reader that finds another view
at its end than at its beginning starts again with the lock, so it never sees bytes that were overwritten,
nor half of a change.  It relies on what the interpreter guarantees: one item is read or set at once.

    reader, without the lock          writer, under it
    ------------------------          ----------------
    view = _view; a place
                                      _view = HIDDEN
    length, tid and data are read     the record is forgotten, other bytes are put there
                                      _view = a new tuple: the old one again would be believed
    _view is not view: once more,
    with the lock

The disk is read outside the lock; whether the place was overwritten meanwhile is asked afterwards.

The new revisions of an own commit are *late*: they go into the file by `write_late`, which the client calls
when it waits for the server anyway, and which everybody does first who needs the lock.  As long as there are
late ones the view is hidden, so readers need it.  What they replaced has ended at once, in the file, too: a
crash loses late revisions from the cache, which does no harm.
"""
from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from zope.interface import implementer

from zeo_clone.cache import format as fmt
from zeo_clone.cache import snapshot
from zeo_clone.cache.file import Revision
from zeo_clone.cache.format import LENGTH_AND_START_FLAGGED, ZERO, Damaged, Head
from zeo_clone.cache.index import FLAGS, TRUSTED
from zeo_clone.cache.opening import open_cache
from zeo_clone.cache.ring import HEAT_SHIFT
from zeo_clone.cache.segments import SHIFT, SIZE
from zeo_clone.cache.trace import trace_from_environment
from zeo_clone.interfaces import IClientCache
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.steps import take_steps

DEFAULT_SIZE = 20 << 20
#: Seconds between two syncs of the file.  Invalidations since the last one are heard again after a crash
#: of the machine.
SYNC_INTERVAL_S = 60.0
#: The new revisions of an own commit are put into the file when there is time, unless they have more bytes
#: than this, each with its head.
LATE_SIZE = 4 << 20
#: So often a reader tries again whose record was moved while it read; then it is a miss.
READ_RETRIES = 4

_length_and_start = LENGTH_AND_START_FLAGGED.unpack_from
_DATA = fmt.HEAD_SIZE - TRUSTED  # from a place with its flag to the data
_HEAD_ROOM = fmt.HEAD_SIZE + fmt.ALIGN
#: A record of so many bytes begins in one segment and ends in it or in the next.
_SHORT = SIZE - fmt.HEAD_SIZE
#: What readers without the lock need: pages of the index, the records in memory, the heat, and where all is
#: in memory that the index knows.
View = tuple[Mapping[bytes, Any], Any, bytearray, bytearray]
HIDDEN: View = ({}, None, bytearray(), bytearray(1))


@implementer(IClientCache)
class ClientCache:
    """A bounded store of object revisions in a file; see `zeo_clone.interfaces.IClientCache`.

    `path` None: a temporary file.  `size`: bytes of the file.  Raises `CacheLocked` if somebody else uses
    `path`, ``OSError`` if the file cannot be made; a file that is not a cache, or is damaged, is moved to
    ``path + '.bad'`` and replaced by an empty one.

    What happens to the file later, a disk that fails or somebody who writes in it or cuts it, empties the
    cache at most (K11).
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, size: int = DEFAULT_SIZE, *,
                 runtime: Runtime = REAL) -> None:
        self.size = int(size)
        self.path = None if path is None else os.fspath(path)
        self._runtime = runtime
        self._lock = runtime.lock()  # protects the book, last tid, what is late; counters may miss some
        self._sync_lock = runtime.lock()  # protects the file from being closed during a sync
        self._book, self._last_tid = open_cache(runtime, self.path, max(self.size, 0))
        self._older_places = self._book.older.places  # the same dict for ever; read without the lock
        self._late: tuple[bytes, list[tuple[bytes, bytes]], set[bytes]] | None = None  # for Book.add
        self._closed = False
        self._syncing = False
        self._synced_at = runtime.monotonic()
        self._hits = self._hit_bytes = self._misses = 0
        self._trace = self._book.trace = trace_from_environment(runtime, self.path, self.size)
        self._view = HIDDEN  # of a traced cache for ever: every load has to be told
        self._show()

    def __repr__(self) -> str:
        state = 'closed' if self._closed else f'{len(self)} revisions'
        return f'<ClientCache {self.path or "(temporary)"} size={self.size} {state}>'

    def __len__(self) -> int:
        self.write_late()
        return len(self._book)

    # -- reading: any thread, mostly without the lock -----------------------------------------------
    def load(self, oid: bytes) -> tuple[bytes, bytes] | None:
        """The current revision ``(data, start_tid)``, or None."""
        view = self._view
        pages, memory, heat, whole = view
        try:
            place = pages[oid[:7]][oid[7]]
        except KeyError:
            place = 0
        if place & TRUSTED or whole[place >> SHIFT]:
            at = place | TRUSTED
            length, start_tid = _length_and_start(memory, at)
            heat[place >> HEAT_SHIFT] = 1
            at += _DATA
            data = memory[at:at + length]
            if self._view is view and (length <= _SHORT or place & TRUSTED):
                self._hits += 1
                self._hit_bytes += length
                return data, start_tid
        elif not place and view is not HIDDEN:
            self._misses += 1  # as `_count` would; a record that another thread just moves is missed, too
            return None
        record = self._current(oid)
        self._count(oid, None, record)
        return None if record is None else (record.data, record.start_tid)

    def loadBefore(self, oid: bytes, before_tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """``(data, start_tid, end_tid or None)`` of the revision valid just before `before_tid`."""
        view = self._view
        pages, memory, heat, whole = view
        try:
            place = pages[oid[:7]][oid[7]]
        except KeyError:
            place = 0
        if place & TRUSTED:
            length, start_tid = _length_and_start(memory, place)
            heat[place >> HEAT_SHIFT] = 1
            at = place + _DATA
            data = memory[at:at + length]
            if start_tid < before_tid and self._view is view:
                self._hits += 1
                self._hit_bytes += length
                return data, start_tid, None
        elif whole[place >> SHIFT]:  # the same once more: every load comes by
            at = place | TRUSTED
            length, start_tid = _length_and_start(memory, at)
            heat[place >> HEAT_SHIFT] = 1
            at += _DATA
            data = memory[at:at + length]
            if start_tid < before_tid and self._view is view and length <= _SHORT:
                self._hits += 1
                self._hit_bytes += length
                return data, start_tid, None
        elif not place and view is not HIDDEN and oid not in self._older_places:
            self._misses += 1
            return None
        record = self._current(oid)
        if record is None or record.start_tid >= before_tid:
            record = self._older(oid, before_tid)
        self._count(oid, before_tid, record)
        if record is None:
            return None
        return record.data, record.start_tid, None if record.end_tid == ZERO else record.end_tid

    def _count(self, oid: bytes, before_tid: bytes | None, record: Revision | None) -> None:
        if self._trace is not None:
            self._trace.loaded(oid, before_tid, record)
        if record is None:
            self._misses += 1
        else:
            self._hits += 1
            self._hit_bytes += len(record.data)

    def _current(self, oid: bytes) -> Revision | None:
        book = self._book
        for _ in range(READ_RETRIES):
            with self._lock:
                self._write_late()
                place = 0 if self._closed else book.current.get(oid)
                if place and not place & TRUSTED:
                    book.flush()
                    place = book.current.get(oid)
                if not place:
                    return None
                at = place & ~FLAGS
                book.ring.heat[at >> HEAT_SHIFT] = 1
                if place & TRUSTED:
                    return book.file.remembered(oid, at)
                first, sums = book.file.unchecked(at)
                if not sums and book.file.knows(at):
                    book.trust([(oid, at)])
                    return book.file.remembered(oid, at)
                mark, moment = book.ring.mark(), book.moment()
            if sums:
                self._check(first, sums)
                continue
            record, following, raw = self._read(at)
            with self._lock:
                if self._closed or book.current.get(oid) & ~FLAGS != at or book.ring.overwrote(at, mark):
                    continue
                if record is not None and record.oid == oid and record.end_tid == ZERO:
                    if moment != book.moment():  # what was read behind the record may have changed
                        following, raw = [], raw[:fmt.HEAD_SIZE + len(record.data)]
                    book.remember(raw, at, [(oid, at), *following])
                    self._bound_memory()
                    return record
            self._change(book.drop_damaged, oid, at)
            return None
        return None

    def _check(self, first: int, sums: list[int]) -> None:
        """Read segments and check each as a whole."""
        book = self._book
        try:
            raw, good = book.file.check(first, sums)
        except (OSError, ValueError):
            raw, good = b'', [False] * len(sums)
        with self._lock:
            if not self._closed:
                book.flush()  # what waits for it changes a segment
                book.file.believe(first, sums, good, raw, book.ring.write, book.ring.front)
                self._bound_memory()

    def _older(self, oid: bytes, before_tid: bytes) -> Revision | None:
        book = self._book
        for _ in range(READ_RETRIES):
            with self._lock:
                if not self._closed and oid in book.older.places:
                    book.flush()
                places = () if self._closed else tuple(book.older.get(oid))
                mark = book.ring.mark()
            index = bisect_left(places, before_tid, key=self._start) if places else 0
            if not index:
                return None
            at = places[index - 1]
            record, _, _ = self._read(at)
            with self._lock:
                if self._closed or at not in book.older.get(oid) or book.ring.overwrote(at, mark):
                    continue
            if record is None or record.oid != oid or record.end_tid == ZERO:
                self._change(book.drop_damaged, oid, at)
                return None
            return record if record.start_tid < before_tid <= record.end_tid else None
        return None

    def _read(self, at: int) -> tuple[Revision | None, list[tuple[bytes, int]], bytes]:
        """As `CacheFile.record_at`; a record that cannot be read is None."""
        try:
            return self._book.file.record_at(at)
        except (OSError, ValueError):  # ValueError: closed meanwhile
            return None, [], b''

    def _start(self, at: int) -> bytes:
        try:
            return self._book.file.start_at(at)
        except (OSError, ValueError):
            return ZERO

    # -- changing -------------------------------------------------------------------------------------
    def store(self, oid: bytes, start_tid: bytes, end_tid: bytes | None, data: bytes) -> None:
        """Keep a revision; nothing changes if it is larger than the cache or already there."""
        with self._lock:  # not by `_change`: this is the one change that has to be fast
            if self._closed:
                return
            if self._late is not None:
                self._write_late()
            book = self._book
            ring, file = book.ring, book.file
            if end_tid or ring.front - ring.write < len(data) + _HEAD_ROOM:
                self._view = HIDDEN
            try:
                book.store(oid, start_tid, end_tid, data)
            except BaseException as error:
                self._failed(error)
            if file.arrived:
                book.arrive()
                self._bound_memory()
            if self._view is HIDDEN:
                self._show()

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """The current revision of `oid` ends at `tid`; None: it is dropped."""
        self._change(self._book.end, (oid,), tid)

    def invalidateTransaction(self, tid: bytes, oids: Iterable[bytes]) -> None:
        """`invalidate` all of `oids`, at once for readers."""
        oids = list(oids)
        with self._lock:  # most of what others write is not here, nor what is beside it
            if self._late is None:
                current = self._book.current
                pages = current.pages
                for oid in oids:
                    if oid[:7] in pages and current.get(oid):
                        break
                else:
                    return
        self._change(self._book.end, oids, tid)

    def applyCommit(self, tid: bytes, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """An own commit: ``(oid, data or None)``; at once for readers."""
        self._change(self._apply, tid, list(records))

    def _apply(self, tid: bytes, records: list[tuple[bytes, bytes | None]]) -> None:
        ended = {oid for oid, _ in self._book.end([oid for oid, _ in records], tid)}
        new = [(oid, data) for oid, data in records if data is not None]
        if 0 < sum(fmt.HEAD_SIZE + len(data) for _, data in new) <= LATE_SIZE:
            if len(new) < len(records):  # of those without data nothing is kept meanwhile
                ended.intersection_update(oid for oid, _ in new)
            self._late = tid, new, ended
        else:
            self._book.add(tid, new, ended)

    @property
    def late(self) -> bool:
        """Is there anything for `write_late` to do?"""
        return self._late is not None

    def write_late(self) -> None:
        """Put the new revisions of an own commit into the file, which has not happened yet."""
        if self._late is not None:
            with self._lock:
                self._write_late()
                if not self._closed:
                    self._book.flush()
                    self._bound_memory()

    def _write_late(self) -> None:
        # Under the lock.
        late, self._late = self._late, None
        if late is None or self._closed:
            return
        try:
            self._book.add(*late)
        except BaseException as error:
            self._failed(error)
        self._book.arrive()
        self._bound_memory()
        self._show()

    def clear(self) -> None:
        """Forget all revisions and set the last tid to zero."""
        self._change(self._clear)

    def _change(self, operation: Any, *args: Any) -> None:
        """Do one operation under the lock, hidden from readers without it."""
        with self._lock:
            if self._closed:
                return
            self._write_late()
            self._view = HIDDEN
            try:
                operation(*args)
            except BaseException as error:
                self._failed(error)
            self._book.arrive()
            self._bound_memory()
            self._show()

    def _failed(self, error: BaseException) -> None:
        """A change ended half-way: no later last tid may cover it.

        If the file is to blame, the cache is emptied: as such it is true (K11).  Otherwise raise `error`.
        """
        file = self._book.file
        file.frozen = True
        if isinstance(error, (Damaged, OSError)):
            damaged = isinstance(error, Damaged)
            file.warn('file', '%s (%s); the cache was emptied.', 'is damaged' if damaged else 'fails', error)
            self._forget(wipe=damaged)
            self._show()
            return
        self._book.flush()
        self._show()
        raise error

    def _show(self) -> None:
        book = self._book
        if self._trace is None and self._late is None:
            self._view = (book.current.pages, book.file.memory, book.ring.heat, book.file.segments.whole)

    def _bound_memory(self) -> None:
        if self._book.file.memory_full:
            self._view = HIDDEN
            self._book.empty_memory()
            self._show()

    def _clear(self) -> None:
        self._last_tid = ZERO
        self._forget()

    def _forget(self, wipe: bool = False) -> None:
        """Forget all revisions; the last tid stays, it is true of an empty cache too.

        `wipe`: trust nothing that is in the file.  What it cannot say now it says with its next header.
        """
        self._view = HIDDEN
        book = self._book
        book.clear()
        try:
            if wipe:
                book.file.wipe()
            self._put_header(salt=book.file.salt, durable_tid=ZERO)
        except OSError as error:
            self._unwritten(error)
        except Damaged as error:
            if not wipe:
                self._failed(error)

    # -- the last tid, and what is on the disk --------------------------------------------------------
    def getLastTid(self) -> bytes:
        """The last transaction whose effects are in the cache; zeros when empty."""
        return self._last_tid

    @property
    def database(self) -> bytes:
        """Which database this is a cache of: 16 bytes, zeros if that is not known."""
        return self._book.file.header.database

    @database.setter
    def database(self, value: bytes) -> None:
        with self._lock:
            if not self._closed and value != self.database:
                self._book.flush()
                self._write_header(database=bytes(value))

    def setLastTid(self, tid: bytes) -> None:
        """Move the last tid forward.  Raises ``ValueError`` if `tid` is less than the present one."""
        with self._lock:
            if tid < self._last_tid:
                raise ValueError(f'the last tid of the cache cannot go back from {self._last_tid.hex()} '
                                 f'to {tid.hex()}')
            if self._closed or tid == self._last_tid:
                return
            self._last_tid = bytes(tid)
            if self.path is None:
                return
            self._book.flush()
            self._bound_memory()
            self._write_header()
            now = self._runtime.monotonic()
            if self._syncing or now - self._synced_at < SYNC_INTERVAL_S:
                return
            self._syncing, self._synced_at = True, now
        try:
            self._runtime.start_thread(self.sync, 'zeo_clone cache sync')
        except RuntimeError:  # the interpreter is ending
            self._syncing = False

    def _write_header(self, **changes: Any) -> None:
        try:
            self._put_header(**changes)
        except OSError as error:
            self._unwritten(error)
        except Damaged as error:
            self._failed(error)

    def _put_header(self, **changes: Any) -> None:
        ring, file = self._book.ring, self._book.file
        file.write_header(last_tid=self._last_tid, write=ring.write, front=ring.front, **changes)

    def _unwritten(self, error: Exception) -> None:
        """What is true in memory cannot be said in the file, for now at least."""
        self._book.file.warn('file', 'cannot be written: %s.  The next process finds the cache as of now, '
                             'or older.', error)

    def sync(self) -> None:
        """Write the file to the disk, then into it the tid up to which it is there.  Holds nobody up."""
        file = self._book.file
        with self._sync_lock:
            with self._lock:
                tid, stopped = self._last_tid, self._closed or file.frozen
            try:
                if not stopped:
                    file.sync()
                    with self._lock:
                        self._write_durable(tid)
            except OSError as error:  # what is in the file now, only the system knows
                file.frozen = True
                self._unwritten(error)
            finally:
                self._syncing = False

    def _write_durable(self, tid: bytes) -> None:
        try:
            self._book.file.check_length()
        except Damaged as error:
            self._failed(error)
        else:
            self._write_header(durable_tid=tid)

    def forsake(self) -> None:
        """Let go of the file in a process that was forked, without touching it: it is the parent's."""
        self._closed = True
        self._view = HIDDEN
        self._book.file.forsake()

    def close(self) -> None:
        """Write the index into the file and close it.  May be called twice."""
        with self._sync_lock, self._lock:
            if self._closed:
                return
            file = self._book.file
            try:
                self._write_late()
                self._view = HIDDEN
                if self.path is not None and not file.frozen:
                    self._finish()
            except (OSError, Damaged) as error:
                file.warn('file', 'could not be completed: %s.  The next start searches it.', error)
            finally:
                self._view = HIDDEN
                self._closed = True
                take_steps('the end of a client cache', file.close,
                           *([] if self._trace is None else [self._trace.close]))

    def _finish(self) -> None:
        file = self._book.file
        file.check_length()
        place = snapshot.write(self._book)
        if place is not None:
            file.sync()
            self._put_header(clean=1, **place)
        else:
            file.flush()
            file.sync()
            self._put_header(durable_tid=self._last_tid)
        file.sync()

    # -- looking at it ----------------------------------------------------------------------------------
    def contents(self) -> Iterator[tuple[bytes, bytes, bytes | None]]:
        """``(oid, start_tid, end_tid or None)`` of all revisions, in no set order."""
        book = self._book
        with self._lock:
            self._write_late()
            keys, older = list(book.current.pages), list(book.older.places)
        for key in keys:
            for head in self._heads(partial(book.current.items_of, key)):
                yield head.oid, head.start_tid, None
        for oid in older:
            for head in self._heads(lambda: [(oid, at) for at in book.older.get(oid)]):  # noqa: B023 - at once
                yield head.oid, head.start_tid, head.end_tid

    def _heads(self, places: Callable[[], list[tuple[bytes, int]]]) -> list[Head]:
        with self._lock:
            if self._closed:
                return []
            try:
                return [head for _, at in places() if (head := self._book.file.head_at(at))]
            except OSError as error:
                self._failed(error)
                return []

    def stats(self) -> dict[str, Any]:
        """Numbers since the start; ``capacity``: what records and their heads may take of ``size``;
        ``memory``: bytes of them that are in memory of this process.
        """
        book = self._book
        with self._lock:
            self._write_late()
            return {
                'path': self.path, 'size': self.size, 'capacity': book.ring.capacity,
                'used': book.ring.used, 'memory': book.file.in_memory, 'objects': len(book),
                'hits': self._hits, 'misses': self._misses, 'hit_bytes': self._hit_bytes,
                'stores': book.stores, 'evictions': book.ring.evictions, 'invalidations': book.invalidations,
            }
