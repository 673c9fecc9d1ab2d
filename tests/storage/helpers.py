"""Transactions by hand, and a look at what a client is told."""
from __future__ import annotations

import resource
import threading
from contextlib import contextmanager

from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import z64

from tests.support import inside

BLOB_RECORD = b'cZODB.blob\nBlob\n.N.'


def commit(storage, *operations):
    """One transaction; an operation is ``(method, *args)``, to which the transaction is added.  The tid."""
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    try:
        for name, *args in operations:
            getattr(storage, name)(*args, transaction)
        storage.tpc_vote(transaction)
        return storage.tpc_finish(transaction)
    except BaseException:
        storage.tpc_abort(transaction)
        raise


def store(oid, data, serial=z64):
    return 'store', oid, serial, data, ''


def store_blob(oid, path, content, serial=z64):
    """An operation; `content` is written to `path` first, since the file will be taken over."""
    path.write_bytes(content)
    return 'storeBlob', oid, serial, BLOB_RECORD, str(path), ''


class PackWaits(FileStorage):
    """Its pack does not go on until it is told to."""

    def __init__(self, path):
        super().__init__(path)
        self.packing = threading.Event()
        self.go_on = threading.Event()

    def pack(self, *args, **options):
        self.packing.set()
        assert self.go_on.wait(30)
        super().pack(*args, **options)


class Recorder:
    """What ZODB's wrapper of a database would be: keeps what the storage tells it."""

    def __init__(self, storage):
        self.invalidated = {}
        self.started_over = 0
        self._storage = storage
        storage.registerDB(self)

    def invalidate(self, tid, oids):
        assert tid not in self.invalidated
        self.invalidated[tid] = list(oids)

    def invalidateCache(self):
        self.started_over += 1

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data

    def of(self, tid):
        """The oids of transaction `tid`, each once."""
        self._storage.ping()
        oids = self.invalidated[tid]
        assert len(oids) == len(set(oids))
        return set(oids)


def channel(storage):
    """The way to the server for what ClientStorage itself would never send."""
    return inside.link(storage).channel


@contextmanager
def no_larger_files(process, size):
    """`process` cannot write beyond `size` bytes of any file, as if the disk were full."""
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
