"""The storages of one side as a client process sees them: how to open, load, commit.

In: where the side's data are, as the parent says.  Out: ZODB storages, one way to load and one to commit that
fit them all.  It knows the three kinds of sides, and nothing of what is measured.

    client      the ClientStorage of `package` (zeo_clone, ZEO) at `address`
    relstorage  RelStorage with PostgreSQL, `dsn`
    file        a FileStorage in this process, `path`
"""
from __future__ import annotations

import importlib
import os
import pickle
import tempfile

from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64, z64

CACHE_SPARE_BYTES = 1 << 20
CACHE_ENTRY_BYTES = 100  # more than any package takes for an object beside its data
MANY = 1000


def record(size):
    """A data record of about `size` bytes that ZODB can read, so that a pack can follow its references."""
    head = pickle.dumps(PersistentMapping, 3)
    bare = head + pickle.dumps({'data': {'payload': b''}}, 3)
    payload = os.urandom(max(0, size - len(bare)))
    return head + pickle.dumps({'data': {'payload': payload}}, 3)


class Store:
    """One side: `objects` records of `record_bytes`, oids 1 to `objects`, are there already.

    `server` is the process id of its server, None if it has none; `seconds` is how long to measure.
    """

    def __init__(self, kind, objects, record_bytes, seconds, directory, server=None, package=None,
                 address=None, dsn=None, path=None):
        self.kind = kind
        self.seconds = seconds
        self.server = server
        self.package = package
        self.directory = directory
        self.oids = [p64(number) for number in range(1, objects + 1)]
        self.record = record(record_bytes)
        self.address = tuple(address) if isinstance(address, list) else address
        self._dsn = dsn
        self._path = path
        self._cache_bytes = CACHE_SPARE_BYTES + 4 * objects * (record_bytes + CACHE_ENTRY_BYTES)

    def open(self, **options):
        """A new storage with an empty cache that has room for everything."""
        if self.kind == 'client':
            package = importlib.import_module(f'{self.package}.ClientStorage')
            return package.ClientStorage(self.address, **{'cache_size': self._cache_bytes, **options})
        if self.kind == 'relstorage':
            return self._open_relstorage(options)
        from ZODB.FileStorage import FileStorage
        return FileStorage(self._path, **options)

    def _open_relstorage(self, options):
        from relstorage.adapters.postgresql import PostgreSQLAdapter
        from relstorage.options import Options
        from relstorage.storage import RelStorage
        if 'blob_dir' in options:
            options = {**options, 'shared_blob_dir': False}
        settings = Options(cache_local_mb=max(1, self._cache_bytes >> 20), **options)
        return RelStorage(PostgreSQLAdapter(dsn=self._dsn, options=settings), options=settings)

    def loader(self, storage):
        """``(method, argument)``: ``method(oid, argument)`` is how ZODB loads from such a storage."""
        return (storage.load, '') if self.kind == 'relstorage' else (storage.loadBefore, maxtid)

    def open_ready(self):
        """The same, connected: it has loaded the root object, which is none of `oids`."""
        return self._connect(self.open())

    def view(self, storage):
        """What one more thread loads from, connected: the storage itself, if it is one for all threads."""
        return self._connect(storage.new_instance()) if self.kind == 'relstorage' else storage

    def _connect(self, storage):
        load, argument = self.loader(storage)
        load(z64, argument)
        return storage

    def serials(self, storage, oids):
        """``{oid: tid of its current revision}``"""
        return {oid: storage.load(oid, '')[1] for oid in oids}

    def scratch(self):
        """A new directory in which everything of this side may lie."""
        return tempfile.mkdtemp(dir=self.directory)


def commit(storage, serials, data):
    """Store `data` for all oids of `serials` in one transaction; returns its tid."""
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    for oid, serial in serials.items():
        storage.store(oid, serial, data, '', transaction)
    storage.tpc_vote(transaction)
    return storage.tpc_finish(transaction)


def commit_new(storage, data):
    """The same with one new object."""
    return commit(storage, {storage.new_oid(): z64}, data)
