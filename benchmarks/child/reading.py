"""Loads: cold, warm, prefetched, many threads; and the same as ZODB's applications see it.

Each function takes the `Store` and returns figures.  A clock runs only while the thing itself happens, not
while storages are opened or closed; passes are repeated until it has run for the seconds asked for.
"""
from __future__ import annotations

import threading
import time

from meters import Spent
from ZODB import DB
from ZODB.utils import maxtid

CLOCK_EVERY = 100  # operations between two looks at the clock where one operation is very short
PREFETCH = 1000  # objects asked for at once


def load_share(load, argument, oids):
    """Load all `oids`; returns seconds."""
    start = time.perf_counter()
    for oid in oids:
        load(oid, argument)
    return time.perf_counter() - start


def load_shares(store, views, shares):
    """Load each share of oids in a thread of its own; returns seconds from first to last load."""
    if len(shares) == 1:
        return load_share(*store.loader(views[0]), shares[0])
    ready = threading.Barrier(len(shares) + 1)

    def work(view, share):
        ready.wait()
        load_share(*store.loader(view), share)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(views, shares, strict=True)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def cold(store, threads):
    """Loads by a client that has nothing in its cache, a new client for each pass; processor time with it."""
    loads, elapsed, spent = 0, 0.0, Spent(store.server)
    shares = [store.oids[n::threads] for n in range(threads)]
    while elapsed < store.seconds:
        storage = store.open_ready()
        views = [storage, *(store.view(storage) for _ in shares[1:])]
        with spent:
            elapsed += load_shares(store, views, shares)
        loads += len(store.oids)
        for opened in {storage, *views}:
            opened.close()
    return {'rate': loads / elapsed, 'client_us': 1e6 * spent.client_s / loads,
            'server_us': 1e6 * spent.server_s / loads}


def cold_pass(store, storage):
    """One pass over all objects by an open storage: when it began and ended."""
    start = time.monotonic()
    load_share(*store.loader(storage), store.oids)
    return {'loads': len(store.oids), 'start': start, 'end': time.monotonic()}


def warm(store):
    """Loads that the cache answers, which the server's counter confirms where there is one."""
    storage = store.open()
    load, argument = store.loader(storage)
    load_share(load, argument, store.oids)
    before = server_loads(storage)
    batches = [store.oids[n:n + CLOCK_EVERY] for n in range(0, len(store.oids), CLOCK_EVERY)]
    loads, elapsed = 0, 0.0
    while elapsed < store.seconds:
        for batch in batches:
            elapsed += load_share(load, argument, batch)
            loads += len(batch)
            if elapsed >= store.seconds:
                break
    asked = server_loads(storage) - before
    storage.close()
    if asked:
        raise RuntimeError(f'{asked} of {loads} warm loads went to the server')
    return {'rate': loads / elapsed}


def server_loads(storage):
    """How many loads the server has answered; 0 if it does not tell."""
    status = getattr(storage, 'server_status', None)
    return status()['loads'] if status else 0


def prefetch(store):
    """Objects per second into the cache, `PREFETCH` at once, until the last of them has come."""
    objects, elapsed = 0, 0.0
    while elapsed < store.seconds:
        storage = store.open()
        before = server_loads(storage)
        for first in range(0, len(store.oids), PREFETCH):
            batch = store.oids[first:first + PREFETCH]
            start = time.perf_counter()
            storage.prefetch(batch, maxtid)
            storage.loadBefore(batch[-1], maxtid)  # replies come in order
            elapsed += time.perf_counter() - start
            objects += len(batch)
            load_share(storage.loadBefore, maxtid, batch)
        asked = server_loads(storage) - before
        storage.close()
        # Waiting for the last of a batch may ask for it a second time; everything else may not.
        if asked > len(store.oids) + len(store.oids) // PREFETCH + 1:
            raise RuntimeError(f'{asked} loads for {len(store.oids)} objects: they were not prefetched')
    return {'rate': objects / elapsed}


def read_tree(connection):
    """Read the tree of small objects; returns how many there are, and seconds."""
    connection.cacheMinimize()
    start, objects = time.perf_counter(), 0
    for value in connection.root()['small'].values():
        value['n']
        objects += 1
    return objects, time.perf_counter() - start


def objects(store, warm):
    """Objects per second read through ZODB; its own cache is empty, the storage's is as `warm` says."""
    count, elapsed = 0, 0.0
    while elapsed < store.seconds:
        db = DB(store.open())
        connection = db.open()
        if warm:
            read_tree(connection)
        while True:
            done, seconds = read_tree(connection)
            count, elapsed = count + done, elapsed + seconds
            if not warm or elapsed >= store.seconds:
                break
        connection.close()
        db.close()
    return {'rate': count / elapsed}


def latencies(store):
    """``[(time.monotonic() before, seconds)]`` of cold loads one after another, at least one pass."""
    found = []
    clock = time.monotonic
    end = clock() + store.seconds
    while not found or clock() < end:
        storage = store.open_ready()
        load, argument = store.loader(storage)
        for oid in store.oids:
            start = clock()
            load(oid, argument)
            found.append((start, clock() - start))
        storage.close()
    return found


def some_latencies(store, storage):
    """Seconds of cold loads one after another by an open storage, of as many as can be had."""
    found = []
    load, argument = store.loader(storage)
    end = time.monotonic() + store.seconds
    for oid in store.oids:
        start = time.monotonic()
        load(oid, argument)
        found.append(time.monotonic() - start)
        if start + found[-1] >= end:
            break
    return found
