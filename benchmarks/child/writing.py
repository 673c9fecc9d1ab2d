"""Commits: one after another, beside other processes, with listeners; and as a burden on somebody's loads.

Each function takes the `Store`.  Times of day are those of ``time.monotonic``, which on Linux is the same in
all processes of a machine.
"""
from __future__ import annotations

import os
import time

from stores import MANY, commit
from ZODB.Connection import TransactionMetaData
from ZODB.serialize import referencesf
from ZODB.utils import z64

BLOB_RECORD = b'cZODB.blob\nBlob\n.N.'
PIECE = os.urandom(1 << 20)


def commits(store, objects):
    """Objects per second in transactions of `objects` existing objects each."""
    storage = store.open()
    serials = store.serials(storage, store.oids[:objects])
    operations, start = 0, time.perf_counter()
    while time.perf_counter() < start + store.seconds:
        serials = dict.fromkeys(serials, commit(storage, serials, store.record))
        operations += objects
    elapsed = time.perf_counter() - start
    storage.close()
    return {'rate': operations / elapsed}


def commits_noted(store):
    """Commit one object, again and again: commits per second, their tids and when each ended."""
    storage = store.open()
    serials = store.serials(storage, store.oids[:1])
    tids, ends = [], []
    start = now = time.monotonic()
    while not tids or now < start + store.seconds:
        tids.append(commit(storage, serials, store.record))
        serials = dict.fromkeys(serials, tids[-1])
        now = time.monotonic()
        ends.append(now)
    storage.close()
    return {'rate': len(tids) / (now - start), 'tids': [tid.hex() for tid in tids], 'ends': ends}


def commits_apart(store, storage, number):
    """Commit the object `number`, again and again, while others do so with theirs; how long each took."""
    serials = store.serials(storage, [store.oids[number % len(store.oids)]])
    took = []
    began = now = time.monotonic()
    while not took or now < began + store.seconds:
        serials = dict.fromkeys(serials, commit(storage, serials, store.record))
        before, now = now, time.monotonic()
        took.append(now - before)
    return {'start': began, 'end': now, 'took': took}


def commit_once(store, storage):
    """One commit of one object: when it began."""
    serials = store.serials(storage, store.oids[:1])
    start = time.monotonic()
    tid = commit(storage, serials, store.record)
    return {'start': start, 'tid': tid.hex()}


def grow(store):
    """Commit a fifth of the objects, one after another: entries of the undo log."""
    storage = store.open()
    for oid, serial in store.serials(storage, store.oids[::5]).items():
        commit(storage, {oid: serial}, store.record)
    storage.close()


def commit_on(store, storage, waiting):
    """Commit one object, again and again, until `waiting()`; yields when it begins, and how often it did."""
    serials = store.serials(storage, store.oids[:1])
    yield 'begins'
    count = 0
    while not count or not waiting():
        serials = dict.fromkeys(serials, commit(storage, serials, store.record))
        count += 1
    yield count


def burden(store, waiting, pack):
    """Commit `MANY` objects, again and again, until `waiting()`; with `pack`, pack after each commit.

    Yields once when it is about to begin; then the intervals of the commits, or of the packs.
    """
    storage = store.open()
    serials = store.serials(storage, store.oids[:MANY])
    intervals = []
    yield 'begins'
    while not intervals or not waiting():
        start = time.monotonic()
        serials = dict.fromkeys(serials, commit(storage, serials, store.record))
        if pack:
            start = time.monotonic()
            storage.pack(time.time(), referencesf)
        intervals.append((start, time.monotonic()))
    storage.close()
    yield intervals


def blob_up(store, megabytes):
    """MB per second of committing a blob of so many megabytes that lies in a file."""
    directory = store.scratch()
    storage = store.open(blob_dir=os.path.join(directory, 'up'))
    size, elapsed = 0, 0.0
    while elapsed < store.seconds:
        oid, path = storage.new_oid(), os.path.join(directory, 'blob')
        with open(path, 'wb') as file:
            for _ in range(megabytes):
                file.write(PIECE)
        start = time.perf_counter()
        tid = commit_blob(storage, oid, path)
        elapsed += time.perf_counter() - start
        size += megabytes
        os.unlink(storage.loadBlob(oid, tid))  # memory is what the data lie in
    storage.close()
    return {'rate': size / elapsed}


def commit_blob(storage, oid, path):
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.storeBlob(oid, z64, BLOB_RECORD, path, '', transaction)
    storage.tpc_vote(transaction)
    return storage.tpc_finish(transaction)


def blob_down(store, megabytes):
    """MB per second of fetching such a blob into an empty blob cache."""
    directory = store.scratch()
    storage = store.open(blob_dir=os.path.join(directory, 'up'))
    oid, path = storage.new_oid(), os.path.join(directory, 'blob')
    with open(path, 'wb') as file:
        for _ in range(megabytes):
            file.write(PIECE)
    tid = commit_blob(storage, oid, path)
    storage.close()
    storage = store.open(blob_dir=os.path.join(directory, 'down'))
    size, elapsed = 0, 0.0
    while elapsed < store.seconds:
        start = time.perf_counter()
        with storage.openCommittedBlobFile(oid, tid) as file:
            elapsed += time.perf_counter() - start
            if os.fstat(file.fileno()).st_size != megabytes * len(PIECE):
                raise RuntimeError('the blob came back with another size')
        os.unlink(storage.loadBlob(oid, tid))
        size += megabytes
    storage.close()
    return {'rate': size / elapsed}
