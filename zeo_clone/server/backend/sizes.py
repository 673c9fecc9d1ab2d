"""How large a storage is, and how much room there is on its disks.

In: a storage.  Out: the dict that the status shows as ``sizes``; None until it has been measured.  A thread
for that looks every now and then, because a disk or a database may let one wait (D1); the loop only puts down
what it found.  Blobs are counted seldom, the longer it takes the seldomer, in turns with other storages.
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from functools import partial
from typing import Any, NamedTuple

from ZODB.blob import BLOB_SUFFIX

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.abilities import file_of
from zeo_clone.server.backend.workers import Workers

#: Seconds from one look at the disks to the next, and while the storage is packed.
INTERVAL_S, PACKING_INTERVAL_S = 20.0, 2.0
#: Blobs are counted again after so many seconds, at least ...
COUNT_INTERVAL_S = 600.0
#: ... and after so many times as long as it took.
COUNT_REST = 50
#: What a FileStorage writes while it is packed.
PACK_SUFFIX = '.pack'

Steps = Generator[None, None, 'Found']


class Blobs(NamedTuple):
    """`size` in bytes of so many `files`, counted `at` a time, which took a while."""

    size: int
    files: int
    at: float
    took_s: float


class Found(NamedTuple):
    """What one look has found; `data` and `pack` in bytes, None: that is not known."""

    data: int | None
    pack: int | None
    disks: list[dict[str, Any]]
    blobs: Blobs | None
    at: float


class Sizes:
    """The sizes of one `storage`; `blob_dir` None: it has none of its own."""

    def __init__(self, loop: Loop, storage: Any, blob_dir: str | None) -> None:
        self._loop = loop
        self._runtime = loop.runtime
        self._storage = storage
        self._file = file_of(storage)
        self._blob_dir = blob_dir
        self._found: Found | None = None  # replaced as a whole
        self._packing = False

    def as_dict(self) -> dict[str, Any] | None:
        """Any thread: bytes; ``age`` and ``blobs_age`` in seconds."""
        found, now = self._found, self._runtime.monotonic()
        if found is None:
            return None
        blobs = found.blobs
        return {'data': found.data, 'pack': found.pack if self._packing else None, 'disks': found.disks,
                'age': round(now - found.at, 3), 'blobs': None if blobs is None else blobs.size,
                'blob_files': None if blobs is None else blobs.files,
                'blobs_age': None if blobs is None else round(now - blobs.at, 3)}

    # ---- loop thread ------------------------------------------------------------------------------

    def start(self, workers: Workers) -> None:
        """Measure in a thread of `workers` from now on."""
        workers.run(self, partial(self._look, self._found), long=True).when_settled(
            partial(self._looked, workers))

    def _looked(self, workers: Workers, found: Found | None, error: BaseException | None) -> None:
        if found is not None:  # else what was known stays, and grows old
            self._found = found
        self._loop.call_later(PACKING_INTERVAL_S if self._packing else INTERVAL_S,
                              partial(self.start, workers))

    def packing(self, begins: bool) -> None:
        """A pack of the storage begins, or has ended."""
        self._packing = begins

    # ---- worker thread ----------------------------------------------------------------------------

    def _look(self, before: Found | None) -> Steps:
        data, disks, blobs = self._data_size(), self._disks(), None if before is None else before.blobs
        yield
        now = self._runtime.monotonic()
        if self._blob_dir is not None and (
                blobs is None or now - blobs.at >= max(COUNT_INTERVAL_S, COUNT_REST * blobs.took_s)):
            blobs = yield from self._count(self._blob_dir, now)
        return Found(data, self._size_of_pack(), disks, blobs, self._runtime.monotonic())

    def _data_size(self) -> int | None:
        try:
            return int(self._storage.getSize())
        except Exception:  # any storage class may be served; it is asked again
            return None

    def _size_of_pack(self) -> int | None:
        with contextlib.suppress(OSError):
            return None if self._file is None else self._runtime.stat(self._file + PACK_SUFFIX).st_size
        return 0

    def _disks(self) -> list[dict[str, Any]]:
        """Each disk once, with what it holds."""
        found: dict[int, dict[str, Any]] = {}
        places = [('database', self._file and (os.path.dirname(self._file) or '.')),
                  ('blobs', self._blob_dir)]
        for holds, path in places:
            if path is not None:
                with contextlib.suppress(OSError):
                    usage, device = self._runtime.disk_usage(path), self._runtime.stat(path).st_dev
                    if device in found:
                        holds = f'{found[device]["holds"]} and {holds}'
                    found[device] = {'holds': holds, 'free': usage.free, 'size': usage.total}
        return list(found.values())

    def _count(self, blob_dir: str, started: float) -> Generator[None, None, Blobs]:
        size = files = 0
        left = [blob_dir]
        while left:
            entries: list[Any] = []
            with contextlib.suppress(OSError):  # a pack has removed it
                entries = self._runtime.entries(left.pop())
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    elif entry.name.endswith(BLOB_SUFFIX):
                        size += entry.stat(follow_symlinks=False).st_size
                        files += 1
            yield
        now = self._runtime.monotonic()
        return Blobs(size, files, now, now - started)
