"""One client process of a benchmark: does what its parent asks, for whichever package it was started with.

    python main.py '{"kind": "client", "package": "ZEO", "address": [...], ...}'      (see `stores.Store`)

In: one JSON request per line on stdin, ``{"do": NAME, ...arguments}``; out: one JSON reply per line on
stdout, ``{"value": ...}``, several for a request that yields, or ``{"error": ...}``.  It runs wherever ZODB
and the package under test are installed, and imports nothing of ours but its siblings and that package.
"""
from __future__ import annotations

import inspect
import json
import select
import sys
import tempfile
import traceback

import caches
import crowd
import flooding
import reading
import writing
from stores import Store, commit_new
from ZODB.FileStorage import FileStorage

WARM_UP_OBJECTS = 500
WARM_UP_COMMITS = 20


class Client:
    """The requests, one method each; between them at most one storage and one crowd stay open."""

    def __init__(self, store, waiting):
        self._store = store
        self._waiting = waiting
        self._storage = None
        self._crowd = None

    def warm_up(self):
        """Do a little of everything once, so that caches and the interpreter have seen it."""
        store = self._store
        storage = store.open()
        for _ in range(2):
            reading.load_share(*store.loader(storage), store.oids[:WARM_UP_OBJECTS])
        for _ in range(WARM_UP_COMMITS):
            commit_new(storage, store.record)
        storage.close()

    def fill(self, path):
        """Copy all transactions of the FileStorage `path`."""
        storage, source = self._store.open(), FileStorage(path, read_only=True)
        storage.copyTransactionsFrom(source)
        source.close()
        storage.close()

    def open(self):
        """Open the storage that `cold_pass`, `some_latencies`, `commits_apart` and `commit_once` use."""
        self._storage = self._store.open_ready()

    def close(self):
        self._storage.close()
        self._storage = None

    def gather(self, count):
        """Open a crowd; returns the number of threads of this process."""
        self._crowd = crowd.Crowd(self._store, count)
        return self._crowd.threads()

    def told(self):
        """When the last of the crowd was told of the next commit."""
        return self._crowd.wait()

    def note_tids(self):
        self._crowd.note()

    def told_of(self, tid):
        self._crowd.wait_for(bytes.fromhex(tid))

    def noted(self):
        return self._crowd.noted()

    def disperse(self):
        self._crowd.close()
        self._crowd = None

    def cold(self, threads):
        return reading.cold(self._store, threads)

    def cold_pass(self):
        return reading.cold_pass(self._store, self._storage)

    def warm(self):
        return reading.warm(self._store)

    def prefetch(self):
        return reading.prefetch(self._store)

    def objects(self, warm):
        return reading.objects(self._store, warm)

    def latencies(self):
        return reading.latencies(self._store)

    def some_latencies(self):
        return reading.some_latencies(self._store, self._storage)

    def flood(self, kind):
        return flooding.flood(self._store, self._waiting, kind)

    def grow(self):
        writing.grow(self._store)

    def commits(self, objects):
        return writing.commits(self._store, objects)

    def commits_noted(self):
        return writing.commits_noted(self._store)

    def commits_apart(self, number):
        return writing.commits_apart(self._store, self._storage, number)

    def commit_once(self):
        return writing.commit_once(self._store, self._storage)

    def commit_on(self):
        return writing.commit_on(self._store, self._storage, self._waiting)

    def burden(self, pack):
        return writing.burden(self._store, self._waiting, pack)

    def rest(self):
        """Does nothing; its coming ends a burden, or a flood."""

    def blob_up(self, megabytes):
        return writing.blob_up(self._store, megabytes)

    def blob_down(self, megabytes):
        return writing.blob_down(self._store, megabytes)

    def connect(self):
        return crowd.connect(self._store)

    def large_cache(self, objects):
        return caches.large_cache(self._store, objects)


def main(options):
    store = Store(**json.loads(options))
    tempfile.tempdir = store.directory  # caches of clients lie where the data lie
    with open(sys.stdin.fileno(), 'rb', buffering=0, closefd=False) as requests:
        client = Client(store, lambda: bool(select.select([requests], [], [], 0)[0]))
        for line in requests:
            arguments = json.loads(line)
            try:
                value = getattr(client, arguments.pop('do'))(**arguments)
                for part in value if inspect.isgenerator(value) else [value]:
                    say({'value': part})
            except Exception as error:
                traceback.print_exc()
                say({'error': f'{type(error).__name__}: {error}'})


def say(reply):
    print(json.dumps(reply), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
