"""Serves storages from a process of its own, on demand of the process that started it.

In: one JSON request per line on stdin; out: one JSON reply per line on stdout; the log goes to stderr.

    python serve.py PACKAGE [OPTIONS]      or      python -m tests.support.serve PACKAGE [OPTIONS]

PACKAGE is ``zeo_clone`` or ``ZEO``.  OPTIONS, a JSON object, starts a first server at once, and its
reply is the first line.  Requests::

    {"start": OPTIONS}   ->  {"server": 1, "address": ["127.0.0.1", 40123]}
    {"stop": 1}          ->  {"server": 1}
    {"plant": {...}}     ->  {}                 be killed later: arguments of `mortal.plant`
    {"die": true}        ->  nothing            be killed now
    a request that fails ->  {"error": "ValueError: ..."}

OPTIONS are ``address`` (default 127.0.0.1, port 0; a path for a unix socket), ``storages`` (default
one MappingStorage; a list of objects with ``kind``, see `make_storage`, the arguments of that storage,
and optionally ``id``, else 1, 2, ...) and any keyword of StorageServer.

The main thread reads requests, each server has a thread.  The process ends when stdin closes, so that
it never outlives its parent, and on SIGTERM; both close servers and storages.  It refuses to know the
tests: it runs wherever ZODB and the package are installed.
"""
from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys

LOG_FORMAT = '%(levelname)s %(name)s %(message)s'


def make_storage(kind, **arguments):
    """A storage of `kind`; `arguments` are those of its class.

    file, mapping, demo (``base`` and ``changes`` are storages again); hex and server_hex transform the
    records of their ``base``, or leave that to clients that do; blob adds a ``blob_dir`` to its
    ``base``; client has an ``addr`` (fan-out); relstorage has a ``dsn`` of PostgreSQL, or a
    ``data_dir`` of SQLite.
    """
    if kind == 'file':
        from ZODB.FileStorage import FileStorage
        path = arguments.pop('path')
        return FileStorage(path, **arguments)
    if kind == 'mapping':
        from ZODB.MappingStorage import MappingStorage
        return MappingStorage(**arguments)
    if kind == 'demo':
        from ZODB.DemoStorage import DemoStorage
        parts = {name: make_storage(**arguments.pop(name))
                 for name in ('base', 'changes') if name in arguments}
        return DemoStorage(**parts, **arguments)
    if kind in ('hex', 'server_hex'):
        from ZODB.tests.hexstorage import HexStorage, ServerHexStorage
        cls = HexStorage if kind == 'hex' else ServerHexStorage
        return cls(make_storage(**arguments.pop('base')), **arguments)
    if kind == 'blob':
        from ZODB.blob import BlobStorage
        return BlobStorage(arguments.pop('blob_dir'), make_storage(**arguments.pop('base')))
    if kind == 'client':
        from zeo_clone.ClientStorage import ClientStorage
        addr = arguments.pop('addr')
        return ClientStorage(addr if isinstance(addr, str) else tuple(addr), **arguments)
    if kind == 'relstorage':
        from relstorage.options import Options
        from relstorage.storage import RelStorage
        dsn, data_dir = arguments.pop('dsn', None), arguments.pop('data_dir', None)
        if data_dir is not None:
            from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
            settings = Options(**arguments)
            return RelStorage(Sqlite3Adapter(data_dir, {}, options=settings), options=settings)
        from relstorage.adapters.postgresql import PostgreSQLAdapter
        settings = Options(**{'driver': 'psycopg2', 'shared_blob_dir': False, **arguments})
        return RelStorage(PostgreSQLAdapter(dsn=dsn, options=settings), options=settings)
    raise ValueError(f'unknown kind of storage: {kind!r}')


class Servers:
    """The servers of this process: ``{number: (server, storages)}``.  Main thread only."""

    def __init__(self, package):
        self._package = package
        self._tune = None
        self._open_file = None
        if package == 'zeo_clone':  # as runzeo does
            self._tune = importlib.import_module('zeo_clone.commands.serve').tune_process
            self._open_file = importlib.import_module('zeo_clone.configuration.filestorage').open_file
        self._running = {}
        self._started = 0

    def start(self, storages=({'kind': 'mapping'},), address=('127.0.0.1', 0), **options):
        module = importlib.import_module(self._package + '.StorageServer')
        served = {}
        for number, description in enumerate(storages, 1):
            arguments = dict(description)
            name = str(arguments.pop('id', number))
            if self._open_file is not None and arguments['kind'] == 'file':
                del arguments['kind']
                served[name] = self._open_file(**arguments)
            else:
                served[name] = make_storage(**arguments)
        address = address if isinstance(address, str) else tuple(address)
        try:
            server = module.StorageServer(address, served, **options)
        except BaseException:
            for storage in served.values():
                storage.close()
            raise
        server.start_thread()
        if self._tune is not None:
            self._tune()
        self._started += 1
        self._running[self._started] = server, served
        return {'server': self._started, 'address': server.addr}

    def stop(self, number):
        server, served = self._running.pop(number)
        server.close()
        for storage in served.values():  # a second close of a storage does nothing
            storage.close()
        return {'server': number}

    def close(self):
        for number in list(self._running):
            self.stop(number)


def answer(servers, request):
    """The reply to one request: ``{'start': options}`` or ``{'stop': number}``, for instance."""
    if 'start' in request:
        return servers.start(**request['start'])
    if 'plant' in request:
        importlib.import_module('mortal').plant(**request['plant'])
        return {}
    if 'die' in request:
        os.kill(os.getpid(), signal.SIGKILL)
    return servers.stop(request['stop'])


def say(reply):
    print(json.dumps(reply), flush=True)


def main(package, options=None):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops us
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=LOG_FORMAT)
    servers = Servers(package)
    try:
        if options is not None:
            say(servers.start(**json.loads(options)))
        for line in sys.stdin:
            try:
                reply = answer(servers, json.loads(line))
            except Exception as error:
                logging.exception('request failed: %s', line.strip())
                reply = {'error': f'{type(error).__name__}: {error}'}
            say(reply)
    finally:
        servers.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
