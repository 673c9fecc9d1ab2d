"""Fan-out: a ClientStorage served by a second server, in processes of their own.

``inner`` serves the files, ``outer`` serves a client of ``inner``.
"""
from __future__ import annotations

import time

import pytest
from BTrees.Length import Length
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import p64, z64

from tests.storage.helpers import Recorder, commit, store, store_blob
from tests.support.server_process import ServerProcess


@pytest.fixture
def inner(blob_server):
    return blob_server


@pytest.fixture
def outer(inner, tmp_path):
    served = {'kind': 'client', 'addr': inner.address, 'wait_timeout': 20,
              'blob_dir': str(tmp_path / 'outer-cache')}
    with ServerProcess([served]) as process:
        yield process


def counted(number):
    return zodb_pickle(Length(number))


def catch_up(storage, tid):
    """Wait until the news of `tid` has come through; the deadline is for hanging only."""
    deadline = time.monotonic() + 30
    while storage.lastTransaction() < tid:
        assert time.monotonic() < deadline, 'the news of a transaction never came'
        storage.ping()


def test_invalidations_are_passed_on_in_both_directions(inner, outer, client):
    above, below, neighbour = client(inner.address), client(outer.address), client(outer.address)
    told = {name: Recorder(storage) for name, storage in
            [('above', above), ('below', below), ('neighbour', neighbour)]}
    serial = z64
    everybody = (above, below, neighbour)
    for number in range(12):
        writer = everybody[number % 3]
        serial = commit(writer, store(p64(1), b'%d' % number, serial), store(p64(100 + number), b'new'))
        for storage in everybody:
            catch_up(storage, serial)
            assert storage.load(p64(1)) == (b'%d' % number, serial)
        for storage, recorder in zip(everybody, told.values(), strict=True):
            if storage is writer:
                assert serial not in recorder.invalidated
            else:
                assert recorder.of(serial) == {p64(1), p64(100 + number)}


def test_everything_works_through_two_servers(inner, outer, client, tmp_path):
    """Conflicts, resolution, undo, history, iteration, blobs, deletion, pack, and errors."""
    below = client(outer.address, blob_dir=str(tmp_path / 'cache'))
    oid, gone = below.new_oid(), below.new_oid()
    first = commit(below, store(oid, counted(1)), store(gone, b'x'), store(z64, referring_to(oid)))
    second = commit(below, store(oid, counted(2), first))
    third = commit(below, store(oid, counted(5), first))  # resolved: 6
    assert below.load(oid) == (counted(6), third)
    with pytest.raises(ConflictError):
        commit(below, store(gone, b'y', second))
    undone = commit(below, ('undo', below.undoInfo(0, 1)[0]['id']))
    assert below.load(oid) == (counted(2), undone)
    assert [entry['tid'] for entry in below.history(oid, 10)] == [undone, third, second, first]
    assert [transaction.tid for transaction in below.iterator()] == [first, second, third, undone]
    blob = below.new_oid()
    tid = commit(below, store_blob(blob, tmp_path / 'up', b'blob'), ('deleteObject', gone, first))
    reader = client(outer.address, blob_dir=str(tmp_path / 'other'))
    with reader.openCommittedBlobFile(blob, tid) as file:
        assert file.read() == b'blob'
    for storage in (below, reader):
        with pytest.raises(POSKeyError):
            storage.load(gone)
    below.pack(time.time() + 1)
    assert len(reader.history(oid, 10)) == 1
    assert len(client(inner.address)) == len(reader) == 2


def referring_to(oid):
    return b'cpersistent.mapping\nPersistentMapping\n.(U\x08' + oid + b'cZODB.blob\nBlob\ntQ.'


def test_new_oids_are_unique_over_both_servers(inner, outer, client):
    storages = [client(address) for address in (inner.address, outer.address, outer.address)]
    oids = [storage.new_oid() for _ in range(250) for storage in storages]
    assert len(set(oids)) == len(oids)


def test_the_inner_server_may_restart(inner, outer, client):
    """Clients of the outer one stay, or come back, and see what was committed meanwhile."""
    below = client(outer.address, wait_timeout=20)
    serial = commit(below, store(p64(1), b'before'), store(p64(2), b'unchanged'))
    for _ in range(3):
        assert below.load(p64(1)) == (b'before', serial)
        inner.kill()
        inner.restart()
        above = client(inner.address)
        serial = commit(above, store(p64(1), b'meanwhile', serial))
        catch_up(below, serial)
        assert below.load(p64(1)) == (b'meanwhile', serial)
        serial = commit(below, store(p64(1), b'before', serial))
        catch_up(above, serial)
        assert above.load(p64(1)) == (b'before', serial)
        assert below.load(p64(2))[0] == b'unchanged'
        above.close()


def test_the_outer_server_may_restart(inner, outer, client):
    above, below = client(inner.address), client(outer.address, wait_timeout=20)
    serial = commit(below, store(p64(1), b'before'))
    outer.kill()
    serial = commit(above, store(p64(1), b'meanwhile', serial))
    outer.restart()
    catch_up(below, serial)
    assert below.load(p64(1)) == (b'meanwhile', serial)
    serial = commit(below, store(p64(1), b'after', serial))
    catch_up(above, serial)
    assert above.load(p64(1)) == (b'after', serial)
