"""A trace of what a cache was asked, for the commands ``zeo-clone cache-stats`` and ``cache-simulate``.

In: events, from `ClientCache` in any thread.  Out: a file.  Big-endian; 8 bytes magic, then records of
40 bytes::

    d time (seconds since 1970) | I size of the data | B event | 3x
    | 8s oid | 8s start_tid or 0 | 8s end_tid, or of a miss the tid asked for, or 0

``OPENED`` has the size of the cache in place of the oid.  Does not know what the events are good for.

Switched on by the environment when a cache is made: ``ZEO_CLONE_CACHE_TRACE`` names a file, or a
directory that gets a file of a random name for each cache; ``ZEO_CACHE_TRACE``, if not empty, means the
cache's path and ``.trace``, and nothing for a temporary cache.  A file that exists is continued.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from zeo_clone.cache.file import Revision, logger
from zeo_clone.cache.format import ZERO
from zeo_clone.loop.runtime import REAL, Runtime

MAGIC = b'zeo-ct01'
RECORD = struct.Struct('>dIB3x8s8s8s')
OPENED, HIT, MISS, STORE, INVALIDATE, CLEAR = range(6)
#: Read at once.
PIECE = RECORD.size * 10_000


class Event(NamedTuple):
    """One record of a trace; ``tid`` is the end tid or, of a miss, the tid asked for."""

    time: float
    size: int
    kind: int
    oid: bytes
    start_tid: bytes
    tid: bytes


class Trace:
    """An open trace file."""

    def __init__(self, runtime: Runtime, path: str, cache_size: int) -> None:
        self._time = runtime.time
        self._file = runtime.open(path, 'ab')
        if not self._file.seek(0, os.SEEK_END):
            self._file.write(MAGIC)
        self._write(OPENED, cache_size.to_bytes(8, 'big'))

    def _write(self, kind: int, oid: bytes = ZERO, start: bytes | None = None,
               tid: bytes | None = None, size: int = 0) -> None:
        self._file.write(RECORD.pack(self._time(), size, kind, oid, start or ZERO, tid or ZERO))

    def loaded(self, oid: bytes, before_tid: bytes | None, record: Revision | None) -> None:
        if record is None:
            self._write(MISS, oid, None, before_tid)
        else:
            self._write(HIT, oid, record.start_tid, record.end_tid, len(record.data))

    def stored(self, oid: bytes, start_tid: bytes, end_tid: bytes | None, size: int) -> None:
        self._write(STORE, oid, start_tid, end_tid, size)

    def invalidated(self, oid: bytes, tid: bytes | None) -> None:
        self._write(INVALIDATE, oid, None, tid)

    def cleared(self) -> None:
        self._write(CLEAR)

    def close(self) -> None:
        self._file.close()


def trace_from_environment(runtime: Runtime, path: str | None, size: int) -> Trace | None:
    """The trace that the environment asks for; None if it does not, or if the file cannot be written."""
    target = runtime.environment('ZEO_CLONE_CACHE_TRACE')
    if target and runtime.is_directory(target):
        name = os.path.basename(path) if path else 'temporary'
        target = os.path.join(target, f'{name}-{runtime.randbytes(8).hex()}.trace')
    elif not target and path and runtime.environment('ZEO_CACHE_TRACE'):
        target = path + '.trace'
    if not target:
        return None
    try:
        return Trace(runtime, target, size)
    except OSError as error:
        logger.warning('The cache trace %s cannot be written: %s.  Going on without.', target, error)
        return None


def read_trace(path: str, runtime: Runtime = REAL) -> Iterator[Event]:
    """The events in the trace file at `path`.  Raises ``ValueError`` if it is not one, ``OSError``."""
    with runtime.open(path, 'rb') as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f'{path} is not a cache trace of zeo_clone')
        while piece := file.read(PIECE):
            whole = len(piece) - len(piece) % RECORD.size  # a killed process may leave a part of one
            yield from map(Event._make, RECORD.iter_unpack(piece[:whole]))
