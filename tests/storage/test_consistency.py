"""What clients are told, and what they answer: invalidations, separate storages, warm reads."""
from __future__ import annotations

import time

import pytest
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import IStorageRestoreable
from ZODB.POSException import POSKeyError
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import maxtid, newTid, p64

from tests.storage.helpers import Recorder, commit, store, store_blob
from tests.support.proxy import Proxy
from tests.support.server_process import ServerProcess


@pytest.fixture
def written(blob_server, client, tmp_path):
    """A client that writes, what another one is told, and an oid with a record: its oid and serial."""
    writer = client(blob_server.address, blob_dir=str(tmp_path / 'cache'))
    recorder = Recorder(client(blob_server.address))
    oid = writer.new_oid()
    return writer, recorder, oid, commit(writer, store(oid, counted(1)))


def counted(number):
    """The record of a counter, whose conflicts can be resolved."""
    return zodb_pickle(Length(number))


def test_new_and_changed_oids_are_invalidated(written, tmp_path):
    """C3: with and without a blob."""
    writer, recorder, oid, serial = written
    new, blob = writer.new_oid(), writer.new_oid()
    tid = commit(writer, store(oid, b'changed', serial), store(new, b'new'),
                 store_blob(blob, tmp_path / 'up', b'blob'))
    assert recorder.of(tid) == {oid, new, blob}


def test_what_is_only_checked_is_not_invalidated(written):
    writer, recorder, oid, serial = written
    new = writer.new_oid()
    tid = commit(writer, store(new, b'new'), ('checkCurrentSerialInTransaction', oid, serial))
    assert recorder.of(tid) == {new}


def test_undone_oids_are_invalidated(written):
    """C3: changed back, and created and gone."""
    writer, recorder, oid, serial = written
    new = writer.new_oid()
    commit(writer, store(oid, counted(2), serial), store(new, b'new'))
    undo_id = writer.undoInfo(0, 1)[0]['id']
    tid = commit(writer, ('undo', undo_id))
    assert recorder.of(tid) == {oid, new}
    assert tid == writer.getTid(oid)
    with pytest.raises(POSKeyError):
        writer.load(new)


def test_resolved_oids_are_invalidated(written):
    """C3: also for the committer, whose data were not those that were committed."""
    writer, recorder, oid, serial = written
    first = commit(writer, store(oid, counted(2), serial))
    transaction = TransactionMetaData()
    writer.tpc_begin(transaction)
    writer.store(oid, serial, counted(5), '', transaction)
    assert writer.tpc_vote(transaction) == [oid]
    tid = writer.tpc_finish(transaction)
    assert tid > first
    assert recorder.of(tid) == {oid}
    assert writer.load(oid) == (writer.loadSerial(oid, tid), tid)


def test_restored_oids_are_invalidated(written):
    """C3."""
    writer, recorder, oid, serial = written
    assert IStorageRestoreable.providedBy(writer)
    tid, new = newTid(serial), writer.new_oid()
    transaction = TransactionMetaData()
    writer.tpc_begin(transaction, tid)
    for restored in (oid, new):
        writer.restore(restored, tid, b'restored', '', None, transaction)
    writer.tpc_vote(transaction)
    assert writer.tpc_finish(transaction) == tid
    assert recorder.of(tid) == {oid, new}
    assert writer.load(oid) == (b'restored', tid)


def test_deleted_oids_are_invalidated(written):
    """C3."""
    writer, recorder, oid, serial = written
    writer.load(oid)
    tid = commit(writer, ('deleteObject', oid, serial))
    assert recorder.of(tid) == {oid}
    with pytest.raises(POSKeyError):
        writer.load(oid)


def test_storages_of_one_server_have_histories_of_their_own(client, tmp_path):
    """C7: three busy storages, of three kinds, the same oids in all, reconnects again and again; nothing is
    mixed."""
    storages = [{'kind': 'file', 'path': str(tmp_path / 'a.fs'), 'id': 'a'},
                {'kind': 'mapping', 'id': 'b'}, {'kind': 'demo', 'id': 'c'}]
    with ServerProcess(storages) as server, Proxy(server.address) as proxy:
        writers = {name: client(server.address, name) for name in 'abc'}
        readers = {name: client(proxy.address, name) for name in 'abc'}
        recorders = {name: Recorder(reader) for name, reader in readers.items()}
        tids = {'a': [], 'b': [], 'c': []}
        serials = {}
        for number in range(63):
            name = 'abc'[number % 3]
            oid = p64(number % 7)  # each one in each storage
            data = f'{name} {number}'.encode()
            tid = commit(writers[name], store(oid, data, serials.get((name, oid), bytes(8))))
            serials[name, oid] = tid
            tids[name].append(tid)
            if number % 10 == 9:
                proxy.cut_all()
            if number % 4 == 0:
                assert readers[name].load(oid)[0].startswith(name.encode())
        for name, reader in readers.items():
            reader.ping()
            assert reader.lastTransaction() == tids[name][-1]
            assert set(recorders[name].invalidated) <= set(tids[name])
            assert recorders[name].started_over == 0
            for number in range(7):
                oid = p64(number)
                data, tid = reader.load(oid)
                assert (data, tid) == writers[name].load(oid)
                assert data.startswith(name.encode())
                assert tid == serials[name, oid]
        for storage in (*readers.values(), *writers.values()):
            storage.close()


def test_a_warm_read_needs_no_server(client, tmp_path):
    """K7: it makes no request, and works while the server is away."""
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as server:
        storage = client(server.address, wait_timeout=1)
        oids = [storage.new_oid() for _ in range(20)]
        tid = commit(storage, *(store(oid, b'data') for oid in oids))
        reader = client(server.address, wait_timeout=1)
        for oid in oids:
            reader.load(oid)
        with Proxy(server.address) as proxy:
            warm = client(proxy.address, wait_timeout=1, heartbeat=0)
            for oid in oids:
                warm.load(oid)
            requests = proxy.frames['up']
            for oid in oids:
                assert warm.loadBefore(oid, maxtid) == (b'data', tid, None)
            assert proxy.frames['up'] == requests
            warm.close()
        server.kill()
        for oid in oids:
            assert reader.load(oid) == storage.load(oid) == (b'data', tid)


def test_after_a_pack_nothing_but_current_revisions_is_certain(blob_server, client, tmp_path):
    """C15, as docs/client.md has it: current revisions are right everywhere.  An old one that a client has
    read before stays in its cache, with the data that it always had; nobody else gets it."""
    writer = client(blob_server.address)
    reader = client(blob_server.address)
    root, garbage = p64(0), p64(1)
    pickle = zodb_pickle(PersistentMapping())
    first = commit(writer, store(root, pickle), store(garbage, b'nobody refers to it'))
    old = reader.load(root)
    assert reader.load(garbage)[1] == first
    second = commit(writer, store(root, zodb_pickle(PersistentMapping(x=1)), first))
    reader.ping()
    writer.pack(time.time() + 1)
    reader.ping()
    for storage in (reader, writer, client(blob_server.address)):
        assert storage.load(root) == (zodb_pickle(PersistentMapping(x=1)), second)
    assert reader.loadBefore(root, second) == (*old, second)
    late = client(blob_server.address)
    with pytest.raises(POSKeyError):
        late.loadSerial(root, first)
    assert late.loadBefore(root, second) is None
    with pytest.raises(POSKeyError):
        late.load(garbage)
    with pytest.raises(POSKeyError):
        reader.loadSerial(root, first)  # never from the cache
