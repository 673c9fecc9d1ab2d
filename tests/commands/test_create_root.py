"""The server creates the root object of an empty storage, so that no client has to."""
from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest
import ZODB
from persistent.mapping import PersistentMapping
from persistent.TimeStamp import TimeStamp
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import StorageError
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64, z64

import zeo_clone
from tests.storage.helpers import BLOB_RECORD
from tests.support.json_process import child_environment
from tests.support.runzeo_process import Runzeo
from tests.support.server_process import package_path
from zeo_clone.addresses import format_address
from zeo_clone.commands.process import StartError
from zeo_clone.commands.startup import create_roots

WORKERS = 8
#: As Zope and pyramid_zodbconn do it: ZODB's own constructor.  Waits for the others before it begins.
WORKER = '''
import sys, json
import ZODB
from zeo_clone.ClientStorage import ClientStorage
storage = ClientStorage((sys.argv[1], int(sys.argv[2])))
print('ready', flush=True)
sys.stdin.readline()
db = ZODB.DB(storage)
with db.transaction() as connection:
    found = list(connection.root())
db.close()
print(json.dumps(found))
'''


def test_several_workers_start_together_on_a_new_database(tmp_path):
    """None of them has to create the root object, and none fails at it."""
    with Runzeo('-a', '127.0.0.1:0', '-f', tmp_path / 'Data.fs') as server, contextlib.ExitStack() as stack:
        host, port = server.ready().address
        workers = [stack.enter_context(subprocess.Popen(
            [sys.executable, '-W', 'error', '-c', WORKER, host, str(port)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=child_environment(package_path()))) for _ in range(WORKERS)]
        for worker in workers:
            assert worker.stdout.readline() == 'ready\n'
        for worker in workers:
            worker.stdin.write('\n')
            worker.stdin.flush()
        assert [json.loads(worker.stdout.read()) for worker in workers] == WORKERS * [[]]
        assert "storage '1' was empty: its root object was created" in server.log
        assert server.stop() == 0


def test_the_transaction_says_what_it_is(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    create_roots({'1': storage})
    transaction, = storage.iterator()
    assert transaction.description == b'root object of a new database, created by the server'
    assert TimeStamp(transaction.tid).timeTime() == 0
    create_roots({'1': storage})
    assert len(list(storage.iterator())) == 1
    with contextlib.closing(ZODB.DB(storage)) as db, db.transaction() as connection:
        assert dict(connection.root()) == {}
        connection.root()['x'] = 1


def test_what_may_not_be_written_stays_empty(tmp_path):
    FileStorage(str(tmp_path / 'Data.fs')).close()
    with contextlib.closing(FileStorage(str(tmp_path / 'Data.fs'), read_only=True)) as storage:
        create_roots({'1': storage})
        assert storage.lastTransaction() == z64


@pytest.mark.parametrize('zeo_conf', ['create-root false', {'create-root': False}, {'read_only': True}])
def test_it_can_be_switched_off(zeo_conf):
    address, stop = zeo_clone.server(zeo_conf=zeo_conf)
    with contextlib.closing(zeo_clone.client(address, read_only=True)) as storage:
        assert storage.lastTransaction() == z64
    stop()


OLD = TimeStamp(2003, 5, 1, 0, 0, 0.0).raw()


def old_database(directory):
    """A database of 2003: a root object and a blob, then a change of it."""
    storage = FileStorage(str(directory / 'Old.fs'), blob_dir=str(directory / 'old'))
    tid, blob = OLD, directory / 'blob'
    for number in range(2):
        transaction = TransactionMetaData(description=f'change {number}')
        storage.tpc_begin(transaction, tid)
        serial = z64 if number == 0 else OLD
        storage.store(z64, serial, root_record(number), '', transaction)
        blob.write_bytes(b'content %d' % number)
        storage.storeBlob(p64(1), serial, BLOB_RECORD, str(blob), '', transaction)
        storage.tpc_vote(transaction)
        storage.tpc_finish(transaction)
        tid = TimeStamp(tid).laterThan(TimeStamp(tid)).raw()
    return storage


def transactions(storage):
    """What was committed: ``[(tid, description, [(oid, data), ...]), ...]``."""
    return [(transaction.tid, transaction.description, [(record.oid, record.data) for record in transaction])
            for transaction in storage.iterator()]


def root_record(number):
    return ObjectWriter().serialize(PersistentMapping(number=number))


def test_an_old_database_can_be_copied_into_a_new_one(tmp_path):
    """C25: the root object of the copy takes the place of the server's, and all goes on after it."""
    (tmp_path / 'zeo.conf').write_text('<zeo>\naddress 127.0.0.1:0\n</zeo>\n'
                                       '<filestorage>\npath Data.fs\nblob-dir blobs\n</filestorage>\n')
    with contextlib.closing(old_database(tmp_path)) as source, \
            Runzeo('-C', 'zeo.conf', cwd=tmp_path) as server:
        address = format_address(server.ready().address)
        with contextlib.closing(zeo_clone.client(address, blob_dir=str(tmp_path / 'cache'))) as storage:
            storage.copyTransactionsFrom(source)
            first, *others = transactions(storage)
            assert others == transactions(source) and len(others) == 2
            assert first[1] == b'root object of a new database, created by the server'
            with open(storage.loadBlob(p64(1), source.lastTransaction()), 'rb') as file:
                assert file.read() == b'content 1'
            with pytest.raises(StorageError, match='copied in order, into a storage that is empty or older'):
                storage.copyTransactionsFrom(source)
        with contextlib.closing(zeo_clone.DB(address)) as db, db.transaction() as connection:
            assert connection.root()['number'] == 1
            connection.root()['number'] = 2
        assert server.stop() == 0


def test_runzeo_leaves_a_storage_empty_that_is_to_be_filled(tmp_path):
    """A copy of another database has older transactions."""
    (tmp_path / 'zeo.conf').write_text('<zeo>\naddress 127.0.0.1:0\ncreate-root false\n</zeo>\n'
                                       '<filestorage>\npath Data.fs\n</filestorage>\n')
    source = MappingStorage()
    ZODB.DB(source)
    with Runzeo('-C', 'zeo.conf', cwd=tmp_path) as server:
        with contextlib.closing(zeo_clone.client(format_address(server.ready().address))) as storage:
            storage.copyTransactionsFrom(source)
            assert storage.lastTransaction() == source.lastTransaction()
        assert server.stop() == 0


class Full(MappingStorage):
    """There is no room."""

    def tpc_vote(self, transaction):
        raise OSError(28, 'No space left on device')


def test_a_full_disk_is_an_error_that_says_what_to_do():
    storage = Full()
    with pytest.raises(StartError, match='No space left on device; check that there is room') as caught:
        create_roots({'main': storage})
    assert "cannot create the root object of storage 'main'" in str(caught.value)
    assert storage.tpc_transaction() is None
