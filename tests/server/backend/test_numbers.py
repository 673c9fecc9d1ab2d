"""`numbers`: tids and oids that clients choose, and those that are in a storage already."""
from __future__ import annotations

import logging
import time

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError, StorageError
from ZODB.utils import maxtid, newTid, p64, u64, z64

from tests.server.desk import Desk

OID = p64(1)
LAST_OID = b'\x7f' + b'\xff' * 7
HOUR = 60 << 32  # in tids


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'Data.fs')


@pytest.fixture
def opened(path):
    storages = []

    def desk():
        storages.append(FileStorage(path, blob_dir=path + '.blobs'))
        made = Desk({'1': storages[-1]})
        made.runtime.now = time.time()
        return made

    yield desk
    for storage in storages:
        storage.close()


def now(hours=0):
    return p64(u64(newTid(None)) + hours * HOUR)


def restore(client, tid, oid=OID, serial=None, status=' '):
    client.begin(tid=tid, status=status)
    client.oneway('restorea', oid, serial or tid, b'copied', None, 7)
    client.call('vote', 7)
    return client.call('tpc_finish', 7)


def is_untouched(desk, client, last):
    """The storage is where it was, and the next commit succeeds."""
    assert desk.storages['1'].lastTransaction() == client.call('lastTransaction') == last
    client.call('tpc_abort', 7)
    return client.commit(client.call('new_oids', 1)[0]) > last


@pytest.mark.parametrize('protocol', ['Z5', 'Z4'])
def test_a_tid_of_the_past_is_refused(opened, protocol):
    """C25: other clients would never hear of it."""
    desk = opened()
    client = desk.connect(protocol=protocol)
    last = client.commit(OID) if protocol == 'Z5' else desk.connect().commit(OID)
    for tid in (last, p64(u64(last) - 1), p64(1), z64):
        client.begin(tid=tid)
        client.store(p64(2))
        with pytest.raises(StorageError, match='the storage is at .* already'):
            client.call('vote', 7)
        client.call('tpc_abort', 7)
    assert desk.storages['1'].lastTransaction() == last
    assert desk.connect().commit(p64(2)) > last


def test_a_tid_of_the_far_future_is_refused(opened):
    """C25: a day ahead of the clock at most, else it would be the last one that anybody gets."""
    desk = opened()
    client = desk.connect()
    last = client.commit(OID)
    for tid in (now(25), b'\x7f' + b'\xff' * 7, b'\xff' * 8):
        client.begin(tid=tid)
        client.store(p64(2))
        with pytest.raises(StorageError, match='more than a day ahead'):
            client.call('vote', 7)
        client.call('tpc_abort', 7)
    assert is_untouched(desk, client, last)
    ahead = now(23)
    assert restore(client, ahead) == ahead
    assert client.commit(p64(9)) > ahead


def test_anything_goes_in_an_empty_storage_and_in_order(opened):
    """C25: real files are older than now."""
    desk = opened()
    client, other = desk.connect(), desk.connect()
    for number in (1, 1 << 40, 1 << 57):
        assert restore(client, p64(number)) == p64(number)
    assert [args[0] for name, args in other.take_notices() if name == 'invalidateTransaction'] == [
        p64(1), p64(1 << 40), p64(1 << 57)]
    client.begin(tid=p64(1 << 57))
    with pytest.raises(StorageError, match='in order'):
        client.call('vote', 7)


def test_a_tid_is_looked_at_when_the_lock_is_there(opened):
    """C25: somebody else may commit between tpc_begin and vote."""
    desk = opened()
    client, other = desk.connect(), desk.connect()
    client.begin(tid=now())
    client.store(OID)
    restore(other, now(1))
    with pytest.raises(StorageError, match='already'):
        client.call('vote', 7)


def test_a_record_is_restored_with_the_tid_of_its_transaction(opened):
    """C25: a record's own tid is written as it comes."""
    desk = opened()
    client = desk.connect()
    last = client.commit(OID)
    for tid, serial in [(None, last), (None, now()), (now(1), now(2)), (now(1), p64(1)),
                        (now(1), b'\xff' * 8)]:
        client.begin(tid=tid)
        client.oneway('restorea', OID, serial, b'copied', None, 7)
        with pytest.raises(StorageError, match='tid of its transaction'):
            client.call('vote', 7)
        client.call('tpc_abort', 7)
    assert is_untouched(desk, client, last)


@pytest.mark.parametrize('verb, args', [
    ('storea', (z64, b'data')),
    ('restorea', (z64, b'data', None)),
    ('deleteObject', (z64,)),
    ('checkCurrentSerialInTransaction', (z64,)),
    ('storeBlobEnd', (z64, b'data')),
    ('storeBlobShared', (z64, b'data', 'name.blob')),
])
@pytest.mark.parametrize('oid', [b'\x80' + bytes(7), b'\xff' * 8, '\xff' * 8])
def test_an_oid_is_below_2_to_the_63(opened, verb, args, oid):
    """C25: refused at the vote, before the storage sees it; whatever the verb."""
    desk = opened()
    client = desk.connect()
    last = client.commit(OID)
    client.begin()
    if verb == 'storeBlobEnd':
        client.oneway('storeBlobStart')
    client.oneway(verb, oid, *args, 7)
    with pytest.raises(ValueError, match=f'{verb}: an oid below 2\\*\\*63 expected'):
        client.call('vote', 7)
    assert is_untouched(desk, client, last)
    with pytest.raises(POSKeyError):
        client.call('loadBefore', oid, maxtid)


def test_the_end_of_the_oids_is_an_error_that_says_so(opened):
    """C25: an object at the last oid costs the making of new objects, and nothing else."""
    desk = opened()
    client = desk.connect()
    desk.storages['1'].set_max_oid(p64((1 << 63) - 3))
    assert client.call('new_oids', 100) == [p64((1 << 63) - 2), LAST_OID]
    for _ in range(2):
        with pytest.raises(StorageError, match='no oids left'):
            client.call('new_oids')
    assert client.commit(LAST_OID)


@pytest.mark.parametrize('highest', [b'\x80' + bytes(7), b'\xff' * 8])
def test_a_storage_beyond_the_end_of_the_oids(highest):
    """C25: existing damage."""
    storage = MappingStorage()
    storage._oid = u64(highest)
    client = Desk({'1': storage}).connect()
    with pytest.raises(StorageError, match='no oids left'):
        client.call('new_oids')


def damaged(path, tid, oid):
    storage = FileStorage(path)
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction, tid)
    storage.store(oid, z64, b'data', '', transaction)
    storage.tpc_vote(transaction)
    storage.tpc_finish(transaction)
    storage.close()


def test_a_file_with_damage_is_served_and_said_to_have_it(opened, path, caplog):
    """C25: existing damage is told once, at the start, with what to do."""
    damaged(path, b'\x7f' + b'\xff' * 6 + b'\xfe', LAST_OID)
    with caplog.at_level(logging.CRITICAL, 'zeo_clone.server'):
        client = opened().connect()
    tids, oids = [record.getMessage() for record in caplog.records
                  if record.name == 'zeo_clone.server.served']
    assert 'days ahead of the clock' in tids and 'copy the database' in tids
    assert '0x7fffffffffffffff' in oids and '0 new objects can be made' in oids
    assert client.call('loadBefore', LAST_OID, maxtid)[0] == b'data'
    with pytest.raises(StorageError, match='no oids left'):
        client.call('new_oids')


@pytest.mark.parametrize('last', [b'\x7f' + b'\xff' * 7, b'\xff' * 8])
def test_after_the_last_tid_there_is_none(opened, path, last):
    """C25: none is made up, and the server goes on."""
    damaged(path, last, OID)
    client = opened().connect()
    client.begin()
    client.store(p64(2))
    with pytest.raises(StorageError, match='no tids left'):
        client.call('vote', 7)
    assert client.call('lastTransaction') == last
    assert client.call('ping') is None


def test_a_healthy_file_is_not_spoken_of(opened, caplog):
    with caplog.at_level(logging.WARNING, 'zeo_clone'):
        desk = opened()
        desk.connect().commit(OID)
    assert not caplog.records


def test_a_storage_that_has_not_found_its_own_server_tells_no_zeros():
    """C23: a server in front of a server that is still connecting."""
    storage = MappingStorage()
    storage.is_connected = lambda: False
    desk = Desk({'1': storage})
    client = desk.stranger()
    client.greet()
    with pytest.raises(StorageError, match='has not found its own server yet'):
        client.call('register', '1', False)
    storage.is_connected = lambda: True
    assert client.call('register', '1', False) == z64


def test_a_tid_that_a_dead_server_has_told_is_nobody_elses(opened, monkeypatch):
    """C11: the clock is behind the file; by its tid a client finds out whether its transaction is committed.

    The dead server told it at the vote.  The next one must not give the same tid to somebody else.
    """
    desk = opened()
    ahead = now(1)
    restore(desk.connect(), ahead)
    desk.storages['1'].close()

    def told(luck, *oids):
        desk = opened()
        monkeypatch.setattr(desk.runtime, 'random', lambda: luck, raising=False)
        client = desk.connect()
        client.call('identify', b't' * 16, 0)
        client.begin()
        client.store(oids[0])
        tids = [client.call('vote', 7)[-1]['tid']]
        client.call('tpc_abort', 7)
        tids += [client.commit(oid) for oid in oids]
        desk.storages['1'].close()
        return tids

    one = told(0.25, p64(3), p64(4))
    assert ahead < one[0] < one[1] < one[2] < p64(u64(ahead) + HOUR // 60)
    other = told(0.75, p64(5), p64(6))
    assert one[2] < other[0]
    assert len({*one, *other}) == 6


def test_the_clock_gives_tids_where_it_is_ahead(opened):
    """Nobody leaps without need."""
    desk = opened()
    client = desk.connect()
    client.commit(OID)
    desk.storages['1'].close()
    desk = opened()
    before = now()
    assert before <= desk.connect().commit(p64(2)) <= now()
