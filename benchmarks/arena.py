"""Where one workload of one side is measured: a fresh copy of the data, its server, its client processes.

In: a `Side`, a `Dataset`.  Out: `Client` processes that do what is asked of them (see ``child/main.py``).
Everything lies below one directory and is gone at the end.  Belongs to one thread.
"""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.sides import CLIENT, DATABASE, FILE, RELSTORAGE
from tests.support.json_process import ChildError, JsonProcess
from tests.support.server_process import ANY_PORT, address_of

HERE = Path(__file__).parent
SERVE = HERE.parent / 'tests' / 'support' / 'serve.py'
CHILD = HERE / 'child' / 'main.py'
SLOW_DISK = HERE / 'slowdisk.py'


class Sizes(NamedTuple):
    """How much of everything; `crowd` multiplies numbers of clients, processes and threads."""

    objects: int = 10_000
    record_bytes: int = 1000
    crowd: int = 1
    seconds: float = 2.0
    blob_mb: int = 64
    cache_objects: int = 200_000
    transaction_objects: int = 1000
    writers: int = 32
    all_writers: int = 80
    sync_ms: float = 0.0


def start(side, program, argument, sync_ms):
    """A process of `side` with a disk that takes `sync_ms` longer for each sync."""
    slow = (SLOW_DISK, str(sync_ms)) if sync_ms else ()
    return JsonProcess(*slow, program, argument, python=side.python, path=side.path, strict=False)


class Client:
    """A client process of a side."""

    def __init__(self, side, options, sync_ms=0.0):
        self._process = start(side, CHILD, json.dumps(options), sync_ms=sync_ms)
        self.pid = self._process.pid

    def send(self, do, **arguments):
        """Ask for something; `receive` has the answer."""
        self._process.send({'do': do, **arguments})

    def receive(self):
        """The value of the answer.  Raises ChildError."""
        reply = self._process.receive()
        if 'error' in reply:
            raise ChildError(f'{reply["error"]}; its log:\n{self._process.log()}')
        return reply['value']

    def call(self, do, **arguments):
        self.send(do, **arguments)
        return self.receive()

    def stop(self):
        self._process.stop()


class Arena:
    """One side, ready to be measured.  A context manager."""

    def __init__(self, side, sizes, dataset, databases, parent, unix=False, blobs=False):
        self.side = side
        self.sizes = sizes
        self._dataset = dataset
        self._databases = databases
        self._parent = parent
        self._unix = unix
        self._blobs = blobs
        self._stack = contextlib.ExitStack()
        self._directory = ''
        self._where = []  # for each server what a client needs
        self._clients = []
        self.server_pid = None
        #: Of the database, where there is one.
        self.dsn = None

    def __enter__(self):
        try:
            self._directory = tempfile.mkdtemp(prefix='zeo-clone-bench-', dir=self._parent)
            self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            if self.side.kind == CLIENT:
                self._serve({'kind': 'file', 'path': self._dataset.copy(self._directory)})
            elif self.side.kind == DATABASE:
                self.dsn = self._stack.enter_context(self._databases.database())
                for _ in range(self.side.servers):
                    self._serve({'kind': 'relstorage', 'dsn': self.dsn}, **self.side.options)
            elif self.side.kind == RELSTORAGE:
                self.dsn = self._stack.enter_context(self._databases.database())
                self._where = [{'dsn': self.dsn, 'server': self._databases.pid}]
            else:
                self._where = [{'path': self._dataset.copy(self._directory), 'server': None}]
            self.server_pid = self._where[0]['server']
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _serve(self, storage, **options):
        if self._blobs:
            storage['blob_dir'] = os.path.join(self._directory, f'blobs{len(self._where)}')
        side = self.side
        server = start(side, SERVE, side.package, self.sizes.sync_ms)
        self._stack.callback(server.stop)
        address = os.path.join(self._directory, f'socket{len(self._where)}') if self._unix else ANY_PORT
        reply = server.call({'start': {'storages': [storage], 'address': address, **options}})
        if 'error' in reply:
            raise ChildError(f'{side.label}: {reply["error"]}; its log:\n{server.log()}')
        self._where.append({'package': side.package, 'address': address_of(reply), 'server': server.pid})

    @property
    def server_pids(self):
        """Of the processes of all servers, PostgreSQL being RelStorage's."""
        return [where['server'] for where in self._where if where['server']]

    @property
    def addresses(self):
        """Of all servers."""
        return [where['address'] for where in self._where]

    def client(self):
        """A client process that has done a little of everything."""
        client, = self.clients(1)
        return client

    def clients(self, count):
        """The same for several, which warm up together, of one server after the other.  Who asks again gets
        the same again."""
        options = {'kind': CLIENT if self.side.kind == DATABASE else self.side.kind,
                   'objects': self.sizes.objects, 'record_bytes': self.sizes.record_bytes,
                   'seconds': self.sizes.seconds, 'directory': self._directory}
        sync_ms = self.sizes.sync_ms if self.side.kind == FILE else 0.0  # its client has the disk
        fresh = []
        while len(self._clients) + len(fresh) < count:
            where = self._where[(len(self._clients) + len(fresh)) % len(self._where)]
            fresh.append(Client(self.side, {**options, **where}, sync_ms))
            self._stack.callback(fresh[-1].stop)
        together(fresh, 'warm_up')
        self._clients += fresh
        return self._clients[:count]


def together(clients, do, **arguments):
    """Have all clients do the same at once; the values of their answers."""
    for client in clients:
        client.send(do, **arguments)
    return [client.receive() for client in clients]


class Databases:
    """Copies of the data set in a `Cluster` of PostgreSQL, made by RelStorage of the interpreter `side`."""

    def __init__(self, cluster, side, sizes, dataset, directory):
        self.pid = cluster.pid
        self._cluster = cluster
        self._template = cluster.create()
        options = {'kind': RELSTORAGE, 'objects': sizes.objects, 'record_bytes': sizes.record_bytes,
                   'seconds': sizes.seconds, 'directory': directory, 'dsn': cluster.dsn(self._template)}
        client = Client(side, options)
        try:
            client.call('fill', path=str(dataset.path))
        finally:
            client.stop()

    @contextlib.contextmanager
    def database(self):
        """A fresh copy; yields its data source name."""
        name = self._cluster.create(self._template)
        try:
            yield self._cluster.dsn(name)
        finally:
            self._cluster.drop(name)
