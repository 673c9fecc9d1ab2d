"""The client cache by itself: what an object in it costs in memory, and how long its file takes to open.

The full set of figures is in ``benchmarks/cache.py``.
"""
from __future__ import annotations

import importlib
import os
import time

from meters import anonymous_bytes

DATA = b'x' * 100
BLOCK_BYTES = 64  # room beside the data of an entry; enough for any package
TID = (5).to_bytes(8, 'big')


def records_in_memory(cache):
    """Bytes of the records that a cache keeps in memory of its own; ZEO's keeps none there."""
    return cache.stats()['memory'] if hasattr(cache, 'stats') else 0


def large_cache(store, objects):
    """Fill a persistent cache with so many objects of 100 bytes, close it, open it and load one.

    A crash is not part of this: the file was closed in good order.
    """
    cache_class = importlib.import_module(f'{store.package}.cache').ClientCache
    path = os.path.join(store.scratch(), 'cache.zec')
    size = int(objects * (len(DATA) + BLOCK_BYTES) * 1.05) + (1 << 20)
    oids = [number.to_bytes(8, 'big') for number in range(1, objects + 1)]
    cache = cache_class(path, size)
    before = anonymous_bytes()
    start = time.perf_counter()
    for oid in oids:
        cache.store(oid, TID, None, DATA)
    fill_s = time.perf_counter() - start
    taken = anonymous_bytes() - before - records_in_memory(cache)
    cache.setLastTid(TID)
    cache.close()
    start = time.perf_counter()
    cache = cache_class(path, size)
    found = cache.load(oids[-1])
    open_s = time.perf_counter() - start
    cache.close()
    if found != (DATA, TID):
        raise RuntimeError(f'the cache lost its last object: {found!r}')
    return {'ms': 1e3 * open_s, 'bytes': taken / objects, 'fill': objects / fill_s}
