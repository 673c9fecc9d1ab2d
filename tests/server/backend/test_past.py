"""`past`: which database it is, and whether a transaction is in it."""
from __future__ import annotations

import logging
import shutil
import time

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import referencesf
from ZODB.tests.hexstorage import HexStorage
from ZODB.tests.MinPO import MinPO
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import p64, u64, z64

from tests.server.desk import Desk
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend import past
from zeo_clone.server.backend.abilities import Abilities


def identity(storage):
    return past.identity(storage, Abilities(storage), REAL)

OID = p64(1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'Data.fs'


@pytest.fixture
def open_file(path):
    opened = []

    def open_it(**options):
        opened.append(FileStorage(str(path), **options))
        return opened[-1]

    yield open_it
    for storage in opened:
        storage.close()


def between(tid, number=1):
    return p64(u64(tid) + number)


def commit_many(client, number, oid=OID):
    tids, serial = [], z64
    for _ in range(number):
        serial = client.commit(oid, serial=serial)
        tids.append(serial)
    return tids


# ---- identity -----------------------------------------------------------------------------------

def test_a_file_storage_has_an_identity_that_stays(open_file, path):
    """C22: written down beside the file, the same after a restart."""
    storage = open_file()
    first = identity(storage)
    storage.close()
    assert len(bytes.fromhex(first)) == past.SIZE
    assert identity(open_file()) == first
    assert sorted(file.name for file in path.parent.iterdir() if 'identity' in file.name) == [
        'Data.fs.identity']


def test_two_databases_have_two_identities(tmp_path):
    """C22."""
    storages = [FileStorage(str(tmp_path / name)) for name in ('One.fs', 'Two.fs')]
    one, two = (identity(storage) for storage in storages)
    assert one != two
    for storage in storages:
        storage.close()


def test_a_wrapped_file_has_the_identity_of_the_file(open_file):
    """C22: with a storage that compresses or encrypts in front of it."""
    storage = open_file()
    assert identity(HexStorage(storage)) == identity(storage)


@pytest.mark.parametrize('damage', [b'', b'abcdef', b'\xff' * 32, b'x' * 32, b'ab' * 17])
def test_a_damaged_identity_is_replaced(open_file, path, damage):
    path.with_name('Data.fs.identity').write_bytes(damage)
    found = identity(open_file())
    assert path.with_name('Data.fs.identity').read_text() == found + '\n'


def test_where_nothing_can_be_written_there_is_none(open_file, path, caplog):
    """C22: a read-only storage is not written beside, but what is there is read."""
    storage = open_file()
    storage.close()
    assert identity(open_file(read_only=True)) is None
    path.with_name('Data.fs.identity').mkdir()
    with caplog.at_level(logging.WARNING):
        assert identity(open_file()) is None
    assert 'Data.fs.identity cannot be used' in caplog.text


def test_other_storages_have_none():
    assert identity(MappingStorage()) is None
    assert 'database' not in Desk().connect().call('get_info')


def test_a_storage_that_is_a_client_has_that_of_its_server():
    """C22: fan-out."""
    storage = MappingStorage()
    storage.database = None
    desk = Desk({'1': storage})
    assert 'database' not in desk.connect().call('get_info')
    storage.database = 'ab' * 16
    assert desk.connect().call('get_info')['database'] == 'ab' * 16


# ---- was it there? ------------------------------------------------------------------------------

def test_what_is_remembered_is_there_and_what_lies_between_never_was(open_file):
    """C22."""
    desk = Desk({'1': open_file()})
    client = desk.connect()
    tids = commit_many(client, 3)
    for tid in tids:
        assert client.call('has_transaction', tid) is True
    for tid in (between(tids[0]), between(tids[1]), between(tids[2])):
        assert client.call('has_transaction', tid) is False
        assert client.call('getInvalidations', tid) is None
    assert 'has_transaction' in client.call('get_info')['extensions']


def test_it_is_known_after_a_restart(open_file):
    """C22: the history comes from the file then."""
    storage = open_file()
    tids = commit_many(Desk({'1': storage}).connect(), 5)
    storage.close()
    client = Desk({'1': open_file()}, history_size=3).connect()
    assert [client.call('has_transaction', tid) for tid in tids] == [None, None, True, True, True]
    assert [client.call('has_transaction', between(tid)) for tid in tids] == [None, None, *[False] * 3]
    assert client.call('getInvalidations', between(tids[2])) is None
    assert client.call('getInvalidations', tids[2]) == (tids[4], [OID])


def test_a_pack_makes_it_uncertain(open_file):
    """C22: what a pack has removed was there; a client at it must not be told that it never was."""
    storage = open_file()
    client = Desk({'1': storage}).connect()
    root = client.commit(z64, data=zodb_pickle(MinPO(1)))
    second = client.commit(z64, serial=root, data=zodb_pickle(MinPO(2)))
    third = client.commit(z64, serial=second, data=zodb_pickle(MinPO(3)))
    storage.pack(time.time() + 1, referencesf)
    fourth = client.commit(z64, serial=third, data=zodb_pickle(MinPO(4)))
    fifth = client.commit(z64, serial=fourth, data=zodb_pickle(MinPO(5)))
    assert client.call('has_transaction', second) is True  # this server has seen it
    storage.close()
    client = Desk({'1': open_file()}).connect()
    assert [client.call('has_transaction', tid) for tid in (root, second, third, fourth, fifth)] == [
        None, None, True, True, True]
    assert client.call('has_transaction', between(third)) is None
    assert client.call('has_transaction', between(fourth)) is False
    assert client.call('getInvalidations', second) is None


def test_of_other_storages_it_is_never_said_that_it_was_not():
    """C22: they may share a database with other servers."""
    client = Desk({'1': MappingStorage()}).connect()
    tid = client.commit(OID)
    assert client.call('has_transaction', tid) is True
    assert client.call('has_transaction', between(tid)) is None


def test_a_backup_that_was_written_to_knows_nothing_of_the_lost_future(open_file, path, tmp_path):
    """C22, C20: tids of both futures lie in each other's range."""
    storage = open_file()
    client = Desk({'1': storage}).connect()
    first = client.commit(OID)
    shutil.copy(path, tmp_path / 'backup')
    lost = client.commit(OID, serial=first)
    storage.close()
    shutil.copy(tmp_path / 'backup', path)
    client = Desk({'1': open_file()}).connect()
    last = client.commit(p64(2))
    assert first < lost < last
    assert client.call('getInvalidations', lost) is None
    assert client.call('has_transaction', lost) is False
    assert client.call('getInvalidations', first) == (last, [p64(2)])


@pytest.mark.parametrize('before', [0, 3])
@pytest.mark.parametrize('history_size', [0, 100])
def test_a_commit_that_was_killed_is_no_transaction(open_file, path, before, history_size):
    """C22, C23: its tid is not told as the last one, though the FileStorage itself says so."""
    storage = open_file()
    desk = Desk({'1': storage})
    tids = commit_many(desk.connect(), before)
    client = desk.connect()
    client.begin()
    client.store(p64(99))
    client.call('vote', 7)
    killed = path.read_bytes()
    client.call('tpc_abort', 7)
    storage.close()
    path.write_bytes(killed)
    storage = open_file()
    client = Desk({'1': storage}, history_size=history_size).connect()
    last = tids[-1] if tids else z64
    assert storage.lastTransaction() > last
    assert client.call('lastTransaction') == last
    assert client.call('getInvalidations', last) == (last, [])
    tid = client.commit(p64(99))
    assert client.call('getInvalidations', last) == ((tid, [p64(99)]) if history_size else None)
