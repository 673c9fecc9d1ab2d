"""N19: objects that are larger than what the server takes in a message, and than all that may wait."""
from __future__ import annotations

import logging
import re

import pytest
import transaction
import ZODB
from transaction.interfaces import TransientError
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import StorageError
from ZODB.utils import maxtid, z64

from tests.client.fake_server import p64
from tests.connections.test_finding import commit
from zeo_clone.client.storage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected, MessageTooLarge
from zeo_clone.zrpc.connection import RECORD_OVERHEAD

MB = 1 << 20
OID = p64(1)
BIG = b'x' * (3 * MB)


def put(storage, *datas, oid=OID):
    """Commit one revision of `oid` after the other; the last tid."""
    tid = z64
    for data in datas:
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.store(oid, tid, data, '', meta)
        storage.tpc_vote(meta)
        tid = storage.tpc_finish(meta)
    return tid


@pytest.fixture
def file_storage(tmp_path):
    """A FileStorage with a revision that the server would not take, between two that it would."""
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    put(storage, b'before', BIG, b'after')
    return storage


@pytest.fixture
def limited(new_server, file_storage):
    return new_server({'1': file_storage}, frame_limit=MB)


def test_a_commit_of_too_large_an_object_is_an_error_that_nobody_repeats(limited, client, caplog):
    """N19: it names object, size, limit and key; the connection and everybody's work on it go on."""
    storage = client(limited.addr)
    db = ZODB.DB(storage)
    caplog.clear()
    with db.transaction() as connection:
        connection.root()['small'] = 1
    connection = db.open()
    connection.root()['big'] = BIG
    with pytest.raises(MessageTooLarge) as caught:
        transaction.commit()
    assert re.match(r'object 0{16} has 31\d{5} bytes .* at most 1048576 bytes. Raise frame-limit in its ',
                    str(caught.value))
    assert isinstance(caught.value, StorageError)
    assert not isinstance(caught.value, TransientError)
    transaction.abort()
    assert connection.root()['small'] == 1
    connection.root()['small'] = 2
    transaction.commit()
    assert storage.server_status()['connections'] == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    db.close()


def test_an_object_of_just_the_right_size_is_taken(limited, client):
    """N19: what the client lets pass, the server takes."""
    storage = client(limited.addr)
    put(storage, b'x' * (MB - RECORD_OVERHEAD), oid=p64(9))
    with pytest.raises(MessageTooLarge):
        put(storage, b'x' * (MB - RECORD_OVERHEAD + 1), oid=p64(10))
    storage.tpc_abort(storage.tpc_transaction())


def test_an_object_that_is_there_already_can_be_read_in_every_way(limited, client):
    """N19."""
    storage = client(limited.addr, cache_size=10 * MB)
    revisions = {entry['size']: entry['tid'] for entry in storage.history(OID, 9)}
    tid = revisions[len(BIG)]
    assert storage.loadSerial(OID, tid) == BIG
    after, start, _ = storage.loadBefore(OID, maxtid)
    assert after == b'after'
    assert storage.loadBefore(OID, start) == (BIG, tid, start)
    other = client(limited.addr, cache_size=10 * MB)
    other.prefetch([OID, p64(2)], start)
    assert other.loadBefore(OID, start) == (BIG, tid, start)
    assert other.server_status()['connections'] == 2
    records = [record.data for transaction in storage.iterator() for record in transaction]
    assert records == [b'before', BIG, b'after']
    assert storage.record_iternext(None)[2] == b'after'


def test_undoing_brings_a_large_revision_back(limited, client):
    """N19: nothing large is sent for that, and others can read it."""
    storage = client(limited.addr)
    undo_id = storage.undoLog(0, 1)[0]['id']
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.undo(undo_id, meta)
    assert storage.tpc_vote(meta) == [OID]
    storage.tpc_finish(meta)
    for reader in (storage, client(limited.addr)):
        assert reader.loadBefore(OID, maxtid)[0] == BIG


@pytest.fixture
def new_target(new_server, tmp_path):
    """Serve an empty storage to copy into."""
    return lambda **options: new_server({'1': FileStorage(str(tmp_path / 'Target.fs'))}, **options).addr


def test_copying_stops_at_a_large_record_and_leaves_the_target_usable(new_target, file_storage, client):
    """N19: what was copied before is there."""
    target = client(new_target(frame_limit=MB))
    with pytest.raises(MessageTooLarge, match=f'object {OID.hex()} has {len(BIG)} bytes'):
        target.copyTransactionsFrom(file_storage)
    file_storage.close()
    assert target.loadBefore(OID, maxtid)[0] == b'before'
    commit(target, p64(7))


def test_copying_brings_large_records_where_they_are_taken(new_target, limited, client):
    """N19: read through a server that would not take them."""
    source, target = client(limited.addr), client(new_target(frame_limit=4 * MB))
    target.copyTransactionsFrom(source)
    assert target.history(OID, 9) == source.history(OID, 9)
    assert target.loadBefore(OID, target.lastTransaction())[0] == BIG


def test_a_server_in_front_of_another_passes_the_error_on(new_server, client):
    """N19: a fan-out whose own limit is larger."""
    inner = new_server(frame_limit=MB)
    outer = new_server({'1': ClientStorage(inner.addr)}, frame_limit=8 * MB)
    storage = client(outer.addr)
    with pytest.raises(MessageTooLarge, match=f'object {OID.hex()} has {len(BIG)} bytes'):
        put(storage, BIG)
    storage.tpc_abort(storage.tpc_transaction())
    commit(storage, p64(7))


def test_clients_resolve_conflicts_within_the_limit(new_server, client):
    """N19: a record that resolution has made too large is no error of the connection."""
    server = new_server(frame_limit=MB, client_conflict_resolution=True)
    storage, other = client(server.addr), client(server.addr)
    tid = put(storage, b'first')
    meta = TransactionMetaData()
    other.tpc_begin(meta)
    other.store(OID, tid, b'second', '', meta)
    put_again = TransactionMetaData()
    storage.tpc_begin(put_again)
    storage.store(OID, tid, b'third', '', put_again)
    storage.tpc_vote(put_again)
    storage.tpc_finish(put_again)
    other.tryToResolveConflict = lambda *args: BIG
    with pytest.raises(MessageTooLarge):
        other.tpc_vote(meta)
    other.tpc_abort(meta)
    assert other.server_status()['connections'] == 2
    commit(other, p64(7))


@pytest.mark.parametrize('secure', [False, True], ids=['plain', 'TLS'])
def test_an_object_larger_than_what_may_wait_for_a_client_can_be_read(new_server, client, contexts, secure):
    """N8, N19: output-limit is for what a client does not read."""
    storage = MappingStorage()
    big = b'x' * (40 * MB)
    put(storage, big)
    server = new_server({'1': storage}, output_limit=32 * MB, ssl=contexts.server() if secure else None)
    options = {'ssl': contexts.client(), 'ssl_server_hostname': 'localhost'} if secure else {}
    reader = client(server.addr, **options)
    assert reader.loadBefore(OID, maxtid)[0] == big
    assert reader.server_status()['connections'] == 1


def test_an_object_larger_than_all_that_may_wait_is_a_clear_error(new_server, client):
    """N19, S12: not a connection that is closed again and again."""
    storage = MappingStorage()
    put(storage, BIG)
    server = new_server({'1': storage}, memory_limit=2 * MB)
    reader = client(server.addr)
    with pytest.raises(StorageError, match='no more than 1966080 may wait .*memory-limit') as caught:
        reader.loadBefore(OID, maxtid)
    assert not isinstance(caught.value, (TransientError, ClientDisconnected))
    assert reader.server_status()['connections'] == 1
