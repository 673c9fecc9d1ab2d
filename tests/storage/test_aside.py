"""Our client of a server whose storage is of a kind of which nothing is known."""
from __future__ import annotations

import pytest
from BTrees.Length import Length
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import p64, u64, z64

from tests.storage.helpers import Recorder, commit, store
from tests.support.held import Held
from zeo_clone.Exceptions import ClientDisconnected

OID, OTHER = p64(1), p64(2)


@pytest.fixture
def held():
    storage = Held()
    yield storage
    storage.free_all()


def test_conflicts_and_failures_leave_it_ready_for_the_next(new_server, client, held):
    """L3: at each step; and what was not committed is not there."""
    storage = client(new_server({'1': held}).addr)
    tid = commit(storage, store(OID, b'one'))
    with pytest.raises(ConflictError):
        commit(storage, store(OID, b'two', z64))
    with pytest.raises(ReadConflictError):
        commit(storage, store(OTHER, b'two'), ('checkCurrentSerialInTransaction', OID, z64))
    for name in 'tpc_begin', 'store', 'tpc_vote', 'tpc_finish':
        inner = getattr(held.inner, name)
        setattr(held.inner, name, fail)
        with pytest.raises((OSError, ClientDisconnected)):
            commit(storage, store(OTHER, b'two'))
        setattr(held.inner, name, inner)
        tid = commit(storage, store(OID, name.encode(), tid))
        assert storage.load(OID) == (name.encode(), tid)
    with pytest.raises(POSKeyError):
        storage.load(OTHER)


def fail(*_):
    raise OSError(5, 'the disk is broken')


def test_clients_resolve_conflicts(new_server, client, held):
    """What a client resolves it stores again, in the same transaction."""
    address = new_server({'1': held}, client_conflict_resolution=True).addr
    one, other = client(address), client(address)
    first = commit(one, store(OID, zodb_pickle(Length(1))))
    commit(one, store(OID, zodb_pickle(Length(2)), first))
    commit(other, store(OID, zodb_pickle(Length(5)), first))
    assert other.load(OID)[0] == zodb_pickle(Length(6))


def test_several_loads_at_once_are_as_of_one_moment(new_server, client, held):
    """C1: prefetched objects come from the storage, once each."""
    address = new_server({'1': held}).addr
    writer, reader = client(address), client(address)
    oids = [p64(number) for number in range(1, 21)]
    tid = commit(writer, *[store(oid, b'data') for oid in oids])
    reader.ping()
    reader.prefetch([*oids, p64(99)], p64(u64(tid) + 1))
    assert all(reader.loadBefore(oid, p64(u64(tid) + 1)) == (b'data', tid, None) for oid in oids)
    assert held.calls.count('loadBefore') == 21


def test_invalidations_reach_a_database(new_server, client, held):
    """C3: through a storage of any kind."""
    address = new_server({'1': held}).addr
    writer, reader = client(address), client(address)
    recorder = Recorder(reader)
    tid = commit(writer, store(OID, b'data'))
    reader.ping()
    assert recorder.of(tid) == {OID}
