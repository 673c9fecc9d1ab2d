"""Many clients in one process: idle ones, ones that listen to what is committed, ones that come and go.

Main thread, and whatever threads the package under test calls `Ears.invalidate` in.
"""
from __future__ import annotations

import threading
import time

from meters import thread_count

TOLD_LIMIT_S = 60
DEFAULT_CACHE_BYTES = 20 << 20  # of ZEO and of zeo_clone


class Ears:
    """Stands for the database of one storage: is told of commits.  `heard` is called with the time
    and the transaction."""

    def __init__(self, heard):
        self._heard = heard

    def invalidate(self, tid, oids):
        self._heard(time.monotonic(), tid)

    def invalidateCache(self):
        raise RuntimeError('the storage has lost track of what was committed')

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data


class Crowd:
    """`count` storages that listen; `wait` until all were told of one more commit than at the last `wait`."""

    def __init__(self, store, count):
        self._lock = threading.Lock()  # protects the next five
        self._noting = False
        self._noted = {}  # by tid: when the last of those who have heard of it did
        self._heard_of = {}  # by tid: how many have
        self._until = None
        self._all_told = threading.Event()
        self._count = self._missing = count
        self._last = 0.0
        self._storages = [store.open() for _ in range(count)]
        for storage in self._storages:
            storage.registerDB(Ears(self._heard))

    def _heard(self, when, tid):
        with self._lock:
            if self._noting:
                self._noted[tid] = when
                self._heard_of[tid] = self._heard_of.get(tid, 0) + 1
                if self._heard_of[tid] == self._count and tid == self._until:
                    self._all_told.set()
                return
            self._missing -= 1
            self._last = max(self._last, when)
            if self._missing <= 0:
                self._all_told.set()

    def wait(self):
        """When the last of them was told."""
        if not self._all_told.wait(TOLD_LIMIT_S):
            raise RuntimeError(f'{self._missing} of {self._count} clients were not told in {TOLD_LIMIT_S} s')
        with self._lock:
            if self._missing < 0:
                raise RuntimeError('a client was told more than once')
            self._missing = self._count
            self._all_told.clear()
            return self._last

    def note(self):
        """From now on note when the last of them was told of each transaction."""
        with self._lock:
            self._noting, self._until = True, None

    def wait_for(self, tid):
        """Until all were told of the transaction `tid`."""
        with self._lock:
            self._until = tid
            if self._heard_of.get(tid) == self._count:
                self._all_told.set()
        if not self._all_told.wait(TOLD_LIMIT_S):
            raise RuntimeError(f'not all of {self._count} clients were told in {TOLD_LIMIT_S} s')

    def noted(self):
        """By tid: when the last of them was told.  Each must have been told of each, once."""
        with self._lock:
            if set(self._heard_of.values()) != {self._count}:
                raise RuntimeError('a client was not told of each transaction once')
            return {tid.hex(): when for tid, when in self._noted.items()}

    def threads(self):
        return thread_count()

    def close(self):
        for storage in self._storages:
            storage.close()


def connect(store):
    """Milliseconds from the call of the constructor to the answer of the first load; a median."""
    took = []
    end = time.perf_counter() + store.seconds
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        storage = store.open(**({'cache_size': DEFAULT_CACHE_BYTES} if store.kind == 'client' else {}))
        load, argument = store.loader(storage)
        load(store.oids[0], argument)
        took.append(time.perf_counter() - start)
        storage.close()
    return {'ms': 1e3 * sorted(took)[len(took) // 2]}
