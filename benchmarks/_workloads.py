"""What one client process does in ``benchmarks.load``, the same code for zeo_clone and for real ZEO.

    python _workloads.py '{"package": "ZEO", "address": [...], "objects": 10000, "seconds": 2.0}'

In: the options, and a server whose storage has `objects` records of RECORD bytes, oids 1 to `objects`.
Out: one JSON object on stdout, operations per second by workload.  It runs wherever the package is
installed, and imports nothing of ours but the package named.
"""
from __future__ import annotations

import importlib
import json
import sys
import threading
import time

from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64

RECORD = bytes(range(250)) * 4  # 1,000 bytes; no storage looks into it
LATEST = b'\x7f' + b'\xff' * 7
CLOCK_EVERY = 100  # operations between two looks at the clock where one operation is very short
MANY_OBJECTS = 1000


class Bench:
    """One server, one set of oids; each method measures one workload and returns operations/s."""

    def __init__(self, package, address, objects, seconds):
        self._class = importlib.import_module(package + '.ClientStorage').ClientStorage
        self._address = address if isinstance(address, str) else tuple(address)
        self._oids = [p64(number) for number in range(1, objects + 1)]
        self._seconds = seconds

    def open(self):
        return self._class(self._address, cache_size=4 * len(RECORD) * len(self._oids))

    def cold(self, threads):
        """Loads by a client that has nothing in its cache; a new client for each pass."""
        operations, elapsed = 0, 0.0
        while elapsed < self._seconds:
            storage = self.open()
            elapsed += load_all(storage, [self._oids[n::threads] for n in range(threads)])
            operations += len(self._oids)
            storage.close()
        return operations / elapsed

    def warm(self):
        """Loads that the cache answers; checked against the server's counter."""
        storage = self.open()
        load_all(storage, [self._oids])
        before = storage.server_status()['loads']
        batches = [self._oids[n:n + CLOCK_EVERY] for n in range(0, len(self._oids), CLOCK_EVERY)]
        load, operations = storage.loadBefore, 0
        start = time.perf_counter()
        while time.perf_counter() < start + self._seconds:
            batch = batches[operations // CLOCK_EVERY % len(batches)]
            for oid in batch:
                load(oid, LATEST)
            operations += len(batch)
        elapsed = time.perf_counter() - start
        asked = storage.server_status()['loads'] - before
        storage.close()
        if asked:
            raise RuntimeError(f'{asked} of {operations} warm loads went to the server')
        return operations / elapsed

    def commit(self, objects):
        """Stores per second in transactions of `objects` existing objects each."""
        storage = self.open()
        oids = self._oids[:objects]
        serials = {oid: storage.getTid(oid) for oid in oids}
        operations, start = 0, time.perf_counter()
        while time.perf_counter() < start + self._seconds:
            tid = commit(storage, serials)
            serials = dict.fromkeys(oids, tid)
            operations += objects
        elapsed = time.perf_counter() - start
        storage.close()
        return operations / elapsed


def load_all(storage, shares):
    """Load each share of oids in a thread of its own; returns seconds from first to last load."""
    if len(shares) == 1:
        return load_share(storage, shares[0])
    ready = threading.Barrier(len(shares) + 1)

    def work(share):
        ready.wait()
        load_share(storage, share)

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def load_share(storage, oids):
    load, start = storage.loadBefore, time.perf_counter()
    for oid in oids:
        load(oid, LATEST)
    return time.perf_counter() - start


def commit(storage, serials):
    """Store RECORD for all oids of `serials` in one transaction; returns its tid."""
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    for oid, serial in serials.items():
        storage.store(oid, serial, RECORD, '', transaction)
    storage.tpc_vote(transaction)
    return storage.tpc_finish(transaction)


def main(options):
    bench = Bench(**json.loads(options))
    print(json.dumps({
        'cold load, 1 thread (loads/s)': bench.cold(1),
        'cold load, 8 threads (loads/s)': bench.cold(8),
        'warm load (loads/s)': bench.warm(),
        'commit of 1 object (txn/s)': bench.commit(1),
        'commit of 1,000 objects (objects/s)': bench.commit(MANY_OBJECTS),
    }))


if __name__ == '__main__':
    main(*sys.argv[1:])
