"""The file under a cache: opening, locking, reading and writing records, the header.

In and out: records and header fields; below it, `Runtime` file calls.  Called under the cache's lock,
except `record_at` and `start_at`, which any thread may call.  Knows nothing of what a revision means, nor
which records are in the index.

What is written goes into the file and, at the same place, into memory; what is read and found whole does so,
too.  From there it is read again without a system call and without giving the interpreter's lock away.  The
file itself is not mapped: whoever cuts it, or a disk that fails, would end the process by a signal (K11).  By
``pread`` that is an error or a record that is not valid.  So somebody else's writing is noticed, or harms
nobody: no record is believed that was not checked when it came from the file.
"""
from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Any, NamedTuple
from zlib import crc32

import zc.lockfile

from zeo_clone.cache import format as fmt
from zeo_clone.cache.format import Damaged, Head, Header
from zeo_clone.cache.segments import MOST, PAIR, SHIFT, SIZE, Segments, check
from zeo_clone.Exceptions import ClientStorageError
from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.throttle import Throttle

logger = logging.getLogger('zeo_clone.cache')

#: So many bytes of new records are collected before they are written.
TAIL_SIZE = 64 << 10
#: How much is read at once for a record of unknown length; what comes with it is checked as well.
READ_AHEAD = 8192
#: As much is read at most where one place after the other is asked for, as by the first pass after a start:
#: to check as many small records takes half a millisecond.
MOST_AHEAD = 64 << 10
#: A cache up to this size is in memory as a whole, if it has all been read.  Of a larger one it is this much,
#: or this part of the machine's or container's memory; then memory is emptied, and fills with what is read.
MEMORY_SIZE, MEMORY_SHARE = 32 << 20, 32
#: How the file of a FileStorage begins: today's, and that of Python 2.
FILE_STORAGES = (b'FS30', b'FS21')


class CacheLocked(ClientStorageError, zc.lockfile.LockError):  # type: ignore[misc]
    """Another process, or another storage of this one, uses the cache file."""


class NotACache(FileExistsError):
    """What the file holds is nobody's to move away: a database."""


class Revision(NamedTuple):
    """A revision read from the file and checked."""

    oid: bytes
    start_tid: bytes
    end_tid: bytes
    data: bytes


class CacheFile:
    """An open cache file and its header.

    ``end`` is where the ring ends.  ``frozen``: an operation failed half-way; the header is not written
    any more, so that a later start believes only what was true before.  ``outdated``: a slot of its header is
    of the first version.  ``memory``: what was written or checked since the start, zeros elsewhere; None if
    there is none.  ``writes`` counts.
    """

    def __init__(self, runtime: Runtime, handle: Any, path: str | None, header: Header,
                 lock: Any = None, first: bytes = bytes(fmt.BASE_FILE)) -> None:
        self.path = path
        self.header = header
        self.salt = header.salt
        self.frozen = False
        self.outdated = fmt.is_outdated(first)
        self._first = bytearray(first)  # the bytes before the ring, as they were left in a named file
        self._unsaid: dict[str, Any] = {}  # changes of the header that could not be written
        self._throttle = Throttle(runtime.monotonic)
        self._runtime = runtime
        self._handle = handle
        self._lock_file = lock
        self.fd = handle.fileno()
        self._read = runtime.pread
        self._write = runtime.pwrite
        self._tail: list[bytes] = []  # blocks that follow each other, not yet written
        self._tail_places: list[tuple[bytes, int]] = []  # oid and place of each
        self._tail_start = self._tail_end = -1
        self.arrived: list[tuple[bytes, int]] = []  # those written since the cache took notice
        # The end tids of ended records by place, if nobody will ever look for them in the file.
        self.ends: dict[int, bytes] | None = {} if path is None else None
        self.base = fmt.BASE_TEMPORARY if path is None else fmt.BASE_FILE
        self.end = self.ring_end(header.size)
        self.writes = 0
        # Where the last record was that was read with others, and how much at once.  Of any thread: a guess.
        self._read_to, self._ahead = self.end, READ_AHEAD
        self.memory = runtime.memory(header.size)
        self._filled = 0  # bytes put into the memory
        self._memory_bound = _memory_bound(runtime, header.size)
        self.segments = Segments(self.end)

    def ring_end(self, size: int) -> int:
        return max(self.base, self.base + (size - self.base) // fmt.ALIGN * fmt.ALIGN)

    # -- making and opening -----------------------------------------------------------------------
    @classmethod
    def temporary(cls, runtime: Runtime, size: int) -> CacheFile:
        """A new file without a name, gone when closed."""
        handle = runtime.temporary_file()
        handle.truncate(size)
        return cls(runtime, handle, None, Header(size=size, salt=_salt(runtime)))

    @classmethod
    def open(cls, runtime: Runtime, path: str, size: int) -> CacheFile:
        """The file at `path`, made if missing; `CacheLocked` if in use.

        A file that is not ours, or damaged, is moved to ``path + '.bad'`` and replaced; a database is
        `NotACache`.  The size of one that exists is in its header; `size` is for a new one.
        """
        lock = _lock(runtime, path)
        try:
            try:
                return cls._existing(runtime, path, lock)
            except FileNotFoundError:
                return cls._create(runtime, path, size, lock)
            except Damaged as error:
                return cls._replace(runtime, path, size, lock, error)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def _existing(cls, runtime: Runtime, path: str, lock: Any) -> CacheFile:
        handle: Any = runtime.open(path, 'r+b')
        try:
            try:
                raw = runtime.pread(handle.fileno(), fmt.BASE_FILE, 0)
                if raw.startswith(FILE_STORAGES):
                    raise NotACache(errno.EEXIST, 'it is the database of a FileStorage; name another file '
                                                  'for the cache', path)
                length = handle.seek(0, os.SEEK_END)
                header = fmt.parse_slots(raw) if length else Header()
                if length > header.size > 0:
                    handle.truncate(header.size)
            except NotACache:
                raise
            except OSError as error:
                raise Damaged(f'it cannot be read: {error}') from error
            if not length:
                raise FileNotFoundError(path)
            if length < header.size:
                raise Damaged(f'it has {length} of {header.size} bytes')
            return cls(runtime, handle, path, header, lock, raw)
        except BaseException:
            handle.close()
            raise

    @classmethod
    def _create(cls, runtime: Runtime, path: str, size: int, lock: Any) -> CacheFile:
        handle: Any = runtime.open(path, 'w+b')
        try:
            size = max(size, fmt.BASE_FILE)
            handle.truncate(size)
            made = cls(runtime, handle, path, Header(size=size, salt=_salt(runtime)), lock)
            made.write_header(clean=0)
            made.write_header(clean=0)
        except BaseException:
            handle.close()
            raise
        return made

    def replaced(self, size: int, why: object) -> CacheFile:
        """Close this file, move it out of the way, and return a new one under the same lock."""
        self.memory = None
        self._handle.close()
        return self._replace(self._runtime, str(self.path), size, self._lock_file, why)

    @classmethod
    def _replace(cls, runtime: Runtime, path: str, size: int, lock: Any, why: object) -> CacheFile:
        """Move the file at `path`, which is closed, out of the way and make a new one."""
        aside = path + '.bad'
        runtime.rename(path, aside)
        logger.critical('The cache file %s is not usable: %s.  It was moved to %s; an empty cache takes '
                       'its place.', path, why, aside)
        return cls._create(runtime, path, size, lock)

    # -- writing: records are collected, and written before anything else is ----------------------
    def append(self, oid: bytes, start_tid: bytes, end_tid: bytes, data: bytes, at: int) -> None:
        """Write a record at `at`, soon."""
        # A temporary file is new, and nobody else can change it: its data need no crc.
        data_crc = crc32(data) if self.path is not None else 0
        block = fmt.record(self.salt, at, oid, start_tid, end_tid, data, data_crc)
        if at != self._tail_end or at - self._tail_start >= TAIL_SIZE:
            self.flush()
            self._tail_start = at
        self._tail.append(block)
        self._tail_places.append((oid, at))
        self._tail_end = at + len(block)

    def flush(self) -> None:
        """Write what was appended.  Raises ``OSError``; then `abandon` it."""
        if self._tail:
            tail, at = b''.join(self._tail), self._tail_start
            self._write_now(tail, at)
            self.arrived += self.abandon()
            self._appended(tail, at)

    def abandon(self) -> list[tuple[bytes, int]]:
        """Give up what was appended and not yet written: oid and place of each record."""
        places = self._tail_places
        self._tail_start = self._tail_end = -1
        self._tail, self._tail_places = [], []
        return places

    def _flush_before(self, at: int, length: int) -> None:
        """`flush` if any of the `length` bytes at `at` wait there."""
        if self._tail_start < at + length and at < self._tail_end:
            self.flush()

    def write(self, data: bytes, at: int) -> None:
        """Write all of `data` at `at`, after what was appended.  Raises ``OSError``."""
        if self._tail:
            self.flush()
        self._write_now(data, at)

    def write_block(self, data: bytes, at: int) -> None:
        """`write` where the hand is."""
        self.write(data, at)
        self._appended(data, at)

    def _appended(self, data: bytes, at: int) -> None:
        if self.memory is not None and self.path is not None:
            new = self.segments.appended(at, len(data))
            if self._memory_bound != sys.maxsize:  # it may be gone at the end
                self.segments.settle(new, self.memory)

    def _write_now(self, data: bytes, at: int) -> None:
        self.segments.changed(at, len(data))
        written: int = self._write(self.fd, data, at)
        if written != len(data):
            why = f'{os.strerror(errno.ENOSPC)} ({written} of {len(data)} bytes written at {at})'
            raise OSError(errno.ENOSPC, why, self.path)
        self.writes += 1
        if self.memory is not None:
            self.remember(data, at)

    # -- memory: places that were never written to it are zeros -----------------------------------
    def remember(self, data: bytes, at: int) -> None:
        """Keep in memory, which there is, what is in the file at `at`."""
        self.memory[at:at + len(data)] = data  # type: ignore[index]
        self._filled += len(data)

    @property
    def memory_full(self) -> bool:
        return self._filled > self._memory_bound

    @property
    def in_memory(self) -> int:
        """Bytes of the file that are in memory, at most."""
        return 0 if self.memory is None else min(self._filled, self.header.size)

    def empty_memory(self) -> None:
        """Begin anew; nobody may trust it for what was in it."""
        self.memory, self._filled = self._runtime.memory(self.header.size), 0
        self.segments.emptied()

    # -- reading ----------------------------------------------------------------------------------
    def raw(self, length: int, at: int) -> bytes:
        """Up to `length` bytes at `at`."""
        if self._tail:
            self._flush_before(at, length)
        return self._read(self.fd, length, at)

    def head_at(self, at: int) -> Head | None:
        """The head of the record at `at`; None if there is no valid one that ends within the ring."""
        if self._tail:
            self._flush_before(at, fmt.HEAD_SIZE)
        head = None
        if self.memory is not None:
            head = fmt.remembered_head(self.salt, at, self.memory, self.path is not None)
        if head is None:
            head = fmt.parse_head(self.salt, at, self._read(self.fd, fmt.HEAD_SIZE, at))
        if head is None or at + fmt.block_size(head.length) > self.end:
            return None
        if self.ends and at in self.ends:
            return head._replace(end_tid=self.ends[at])
        return head

    def free_at(self, at: int) -> int:
        """The length of the free block at `at`; 0 if there is none."""
        length = fmt.parse_free(self.salt, at, self.raw(fmt.FREE_SIZE, at))
        return length if at + length <= self.end else 0

    def remembered(self, oid: bytes, at: int) -> Revision | None:
        """The current record at `at`, which is trusted."""
        if self.memory is None:
            return None
        length, start_tid = fmt.LENGTH_AND_START.unpack_from(self.memory, at)
        at += fmt.HEAD_SIZE
        return Revision(oid, start_tid, fmt.ZERO, self.memory[at:at + length])

    def body_at(self, at: int, head: Head, trusted: bool) -> bytes | None:
        """What follows the `head` at `at` in its block; None if it is damaged."""
        length = fmt.block_size(head.length) - fmt.HEAD_SIZE
        at += fmt.HEAD_SIZE
        if trusted and self.memory is not None:
            return self.memory[at:at + length]
        body = self.raw(length, at)
        if len(body) != length:
            raise Damaged(f'it ends at {at + len(body)}')
        return body if self._is_whole(body[:head.length], head) else None

    def knows(self, at: int) -> bool:
        """Is the record at `at` in memory with segments that were checked?"""
        known = self.segments.known
        if self.memory is None or not known[at >> SHIFT]:
            return False
        length, _ = fmt.LENGTH_AND_START.unpack_from(self.memory, at)  # which is not cut: a part of 16 bytes
        return all(known[at >> SHIFT:((at + fmt.HEAD_SIZE + length - 1) >> SHIFT) + 1])

    def unchecked(self, at: int) -> tuple[int, list[int]]:
        """The segments to `check` for the record at `at`, which is not trusted: the first, and their crcs."""
        if self.memory is None:
            return 0, []
        first, sums = self.segments.wanted(at, MOST)
        return first, sums and sums[:max(self._much(at, SIZE) >> (SHIFT - 1), PAIR)]

    def check(self, first: int, sums: list[int]) -> tuple[bytes, list[bool]]:
        """Segments from the disk, and which of them have these `sums`.  Any thread, without the lock."""
        length, at = self.segments.piece(first, len(sums))
        raw = self._read(self.fd, length, at)
        self._read_to = at + length
        return raw, check(sums, raw)

    def believe(self, first: int, sums: list[int], good: list[bool], raw: bytes, write: int,
                front: int) -> None:
        """Keep in memory what `check` found."""
        if self.memory is not None:
            self._runtime.touch(self.memory, first << SHIFT, len(raw))
            self.segments.believe(first, sums, good, raw, self.memory, write, front)
            self._filled += len(raw)

    def _much(self, at: int, back: int = 0) -> int:
        """How much to read at once at `at`, or up to `back` before what was read last."""
        self._ahead = (min(2 * self._ahead, MOST_AHEAD) if -back <= at - self._read_to <= READ_AHEAD
                       else READ_AHEAD)
        return self._ahead

    def record_at(self, at: int) -> tuple[Revision | None, list[tuple[bytes, int]], bytes]:
        """The record at `at` with everything checked, from the disk; None if it is not valid.

        Oid and place of the current records behind it that came with the same read and are valid, too.  And
        what was read of these.  Any thread, without the lock.
        """
        raw = self._read(self.fd, self._much(at), at)
        head = fmt.parse_head(self.salt, at, raw)
        if head is None or at + fmt.block_size(head.length) > self.end:
            return None, [], b''
        whole = fmt.HEAD_SIZE + head.length
        if whole > len(raw):
            raw += self._read(self.fd, whole - len(raw), at + len(raw))
        data = raw[fmt.HEAD_SIZE:whole]
        if len(data) != head.length or not self._is_whole(data, head):
            return None, [], b''
        end_tid = self.ends.get(at, head.end_tid) if self.ends is not None else head.end_tid
        following, end = fmt.whole_records(self.salt, at, raw, fmt.block_size(head.length),
                                           self.path is not None)
        self._read_to = at + end
        return Revision(head.oid, head.start_tid, end_tid, data), following, raw[:end]

    def _is_whole(self, data: bytes, head: Head) -> bool:
        return self.path is None or crc32(data) == head.data_crc

    def start_at(self, at: int) -> bytes:
        """The start tid of the record at `at`, unchecked, from the disk.  Any thread, no lock."""
        return self._read(self.fd, 8, at + fmt.START_AT)

    def start_of(self, at: int) -> bytes:
        """The start tid of the record at `at`.  Raises `Damaged` if there is none."""
        memory = self.memory
        if self._tail:
            self._flush_before(at, fmt.HEAD_SIZE)
        if memory is not None and memory[at:at + 4] == fmt.RECORD_MAGIC:
            return memory[at + fmt.START_AT:at + fmt.START_AT + 8]
        head = self.head_at(at)
        if head is None:
            raise Damaged(f'no record at {at}')
        return head.start_tid

    def write_end(self, at: int, head: Head, end_tid: bytes) -> None:
        """Set the end tid of the record at `at`."""
        length, oid, start_tid, _, data_crc = head
        raw = fmt.pack_head(self.salt, at, (length, oid, start_tid, end_tid, data_crc))
        self.write(raw[fmt.END_AT:], at + fmt.END_AT)

    # -- header -----------------------------------------------------------------------------------
    def write_header(self, **changes: Any) -> None:
        """Write the header with `changes` to the slot whose turn it is; nothing if frozen or temporary.

        Raises `Damaged` if the other slot is not as it was left, because somebody else has written; and
        ``OSError``, then the next header says these changes, too.
        """
        if self.path is None or self.frozen:
            return
        other = fmt.SLOT_AT[self.header.sequence % 2]
        if self._read(self.fd, fmt.SLOT_SIZE, other) != self._first[other:other + fmt.SLOT_SIZE]:
            raise Damaged('somebody else has written or cut it')
        self._unsaid.update(changes)
        header = self.header._replace(sequence=self.header.sequence + 1, **self._unsaid)
        raw, at = header.pack(), fmt.SLOT_AT[header.sequence % 2]
        self.write(raw, at)
        self.header = header
        self._unsaid.clear()
        self._first[at:at + len(raw)] = raw

    def check_length(self) -> None:
        """Raise `Damaged` if somebody else has cut the file."""
        length = self._handle.seek(0, os.SEEK_END)
        if length < self.header.size:
            raise Damaged(f'it has {length} of {self.header.size} bytes')

    def wipe(self) -> None:
        """Make the file as a new one is, whatever others wrote into it.  Raises ``OSError``."""
        self._handle.truncate(0)
        self._first = bytearray(fmt.BASE_FILE)
        self._handle.truncate(self.header.size)

    def warn(self, kind: str, text: str, *args: object) -> None:
        """A line about this file in the log; one of a kind, then now and then another."""
        self._throttle.report(logger, logging.WARNING, kind, '', f'The cache file %s {text}',
                              self.path or '(temporary)', *args)

    def new_salt(self) -> None:
        """Make all that is in the ring meaningless; the next header makes that last."""
        self.salt = _salt(self._runtime)
        self.segments = Segments(self.segments.end)
        if self.ends is not None:
            self.ends.clear()

    def identity(self) -> bytes:
        """What tells a restart of the process from one of the machine; 16 bytes, zeros if unknown."""
        return self._runtime.file_identity(self.fd) or bytes(16)

    def resize(self, size: int) -> None:
        """Give the file another size; the header must say so already if it shrinks."""
        self._handle.truncate(size)
        self.end = self.ring_end(size)
        self.memory = self._runtime.memory(size)
        self._memory_bound = _memory_bound(self._runtime, size)
        self.segments = Segments(self.end)

    def sync(self) -> None:
        if self.path is not None:
            self._runtime.fsync(self.fd)

    def close(self) -> None:
        """Close the file, then give up its lock.  May be called twice."""
        self.memory = None
        try:
            self._handle.close()
        finally:
            if self._lock_file is not None:
                self._lock_file.close()

    def forsake(self) -> None:
        """Close the copies of the descriptors in a process that was forked; the lock stays its parent's."""
        self.memory = None
        self._handle.close()
        if self._lock_file is not None:
            self._runtime.forsake_lock(self._lock_file)


def _memory_bound(runtime: Runtime, size: int) -> int:
    """How many bytes of a cache of `size` may be put into memory before it is emptied."""
    if size <= MEMORY_SIZE:
        return sys.maxsize
    bound = max(MEMORY_SIZE, (runtime.memory_size() or 0) // MEMORY_SHARE)
    return sys.maxsize if size <= bound else bound


def _salt(runtime: Runtime) -> int:
    return int.from_bytes(runtime.randbytes(4), 'big')


def _lock(runtime: Runtime, path: str) -> Any:
    lock_path = path + '.lock'
    try:
        return runtime.lock_file(lock_path)
    except zc.lockfile.LockError:
        try:
            with runtime.open(lock_path, 'rb') as file:
                holder = file.read(200).decode('utf-8', 'replace').strip(' \0\n')
        except OSError:
            holder = ''
        pid, _, host = holder.partition(' ')
        raise CacheLocked(
            f'The cache file {path} is in use by process {pid or "unknown"} on {host or "this host"} '
            f'(lock file {lock_path}).  Give every process a cache file of its own.') from None
