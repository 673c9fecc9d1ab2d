"""C11: the reply to tpc_finish is lost; the client finds out what happened."""
from __future__ import annotations

import shutil

import pytest
import transaction.interfaces
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import maxtid, z64

from tests.client.fake_server import p64
from tests.client.test_order import Wrapper
from tests.support import inside
from tests.support.proxy import AFTER, BEFORE, DOWN, INSIDE, UP, Proxy
from zeo_clone.client.link import Identity
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown
from zeo_clone.zrpc.channel.calls import ConnectionLost

OID = p64(7)


def vote(storage, data=b'new', oid=OID, serial=z64):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, serial, data, '', meta)
    storage.tpc_vote(meta)
    return meta


@pytest.fixture
def proxy(server):
    with Proxy(server.addr) as proxy:
        yield proxy


@pytest.mark.parametrize('io_thread', [True, False])
def test_the_reply_was_lost_but_the_transaction_is_committed(server, proxy, client, io_thread):
    """C11, C2: tpc_finish returns the tid; the DB was told before lastTransaction() moved."""
    storage = client(proxy.address, io_thread=io_thread)
    storage.tpc_finish(vote(storage, oid=p64(8)))
    db = Wrapper(storage)
    meta = vote(storage)
    proxy.cut(DOWN, b'length', AFTER)  # the info that comes just before the reply
    told = []
    tid = storage.tpc_finish(meta, lambda tid: told.append((tid, storage.lastTransaction() >= tid,
                                                            list(db.told))))
    assert proxy.cuts_made == 1
    stored = server.storages['1'].loadBefore(OID, maxtid)
    assert stored[:2] == (b'new', tid)
    assert told == [(tid, True, [(tid, [OID])])]
    assert storage.lastTransaction() == tid
    assert storage.loadBefore(OID, maxtid)[:2] == (b'new', tid)
    again = vote(storage, b'next', serial=tid)
    assert storage.tpc_finish(again) > tid


@pytest.mark.parametrize('where', [BEFORE, INSIDE])
def test_the_request_was_lost_so_nothing_is_committed(server, proxy, client, where):
    """C11: for sure nothing is committed: a retryable error, and the repetition succeeds."""
    storage = client(proxy.address)
    meta = vote(storage)
    proxy.cut(UP, b'tpc_finish', where)
    with pytest.raises(ClientDisconnected, match='nothing was committed') as caught:
        storage.tpc_finish(meta)
    assert isinstance(caught.value, transaction.interfaces.TransientError)
    storage.tpc_abort(meta)
    with pytest.raises(POSKeyError):
        server.storages['1'].loadBefore(OID, maxtid)
    storage.tpc_finish(vote(storage))


def test_whatever_became_of_the_request_the_client_tells_the_truth(server, proxy, client):
    """C11: cut right after the request, again and again: tid or retryable error, as the storage says."""
    storage = client(proxy.address)
    base = storage.tpc_finish(vote(storage))
    for number in range(10):
        data = b'%d' % number
        meta = vote(storage, data, serial=base)
        link = inside.link(storage)
        proxy.cut(UP, b'tpc_finish', AFTER)
        try:
            base = storage.tpc_finish(meta)
        except ClientDisconnected:
            storage.tpc_abort(meta)
            assert server.storages['1'].loadBefore(OID, maxtid)[1] == base
        else:
            assert server.storages['1'].loadBefore(OID, maxtid)[:2] == (data, base)
        assert link.channel.buried.wait(20)  # the reply may have been faster than the cut


def test_nobody_comes_back_within_the_wait_timeout(server, client):
    """C11: unknown, which is not transient."""
    with Proxy(server.addr) as proxy:
        storage = client(proxy.address, wait_timeout=0.3)
        meta = vote(storage)
        proxy.cut(DOWN, b'length', AFTER)
        for listener in server._listeners:
            listener._on_connect = lambda sock, peer: sock.close()
        with pytest.raises(CommitOutcomeUnknown) as caught:
            storage.tpc_finish(meta)
        assert not isinstance(caught.value, transaction.interfaces.TransientError)


def test_an_older_session_of_the_client_cannot_commit_any_more(server, client, monkeypatch):
    """C11: the server closes it before it answers, whatever is still on the way from it."""
    storage = client(server.addr)
    vote(storage)
    session, = inside.sessions(server)
    # It has the token from the start: it may be connected before its constructor returns.
    monkeypatch.setattr(Identity, '__init__', lambda self, runtime: vars(self).update(
        vars(inside.engine(storage).identity)))
    other = client(server.addr)
    other.ping()
    # The lock is free: the transaction of the first session was aborted.
    assert session not in inside.sessions(server)
    meta = vote(other, b'other')
    other.tpc_finish(meta)


def test_a_child_of_fork_is_another_client(server, client):
    """It must not close the parent's session."""
    storage = client(server.addr)
    token = inside.engine(storage).identity.token
    other = client(server.addr)
    assert inside.engine(other).identity.token != token
    assert len(token) == 16


def test_real_zeo_servers_are_looked_at(peer_server, client):
    """C11 with real ZEO: before the request, for sure not committed; after it, unknown at worst."""
    with Proxy(peer_server.address) as proxy:
        storage = client(proxy.address)
        meta = vote(storage)
        proxy.cut(UP, b'tpc_finish', BEFORE)
        with pytest.raises(ClientDisconnected, match='nothing was committed'):
            storage.tpc_finish(meta)
        storage.tpc_abort(meta)
        meta = vote(storage)
        proxy.cut(DOWN, b'length', AFTER)
        with pytest.raises(CommitOutcomeUnknown):
            storage.tpc_finish(meta)
        assert storage.loadBefore(OID, maxtid)[0] == b'new'


# ---- our server was restarted -------------------------------------------------------------------

def at_finish(storage, happens, committed):
    """When the client commits: the server does so if `committed`, then something happens, then the connection
    is lost, before the reply has come."""
    link = inside.link(storage)
    original = link.channel.call

    def call(name, args, on_reply=None):
        if name != 'tpc_finish':
            return original(name, args, on_reply)
        link.channel.call = original
        if committed:
            original(name, args)
        happens()
        assert link.channel.buried.wait(20)
        raise ConnectionLost('lost by the test')

    link.channel.call = call


@pytest.fixture
def crash(server_process):
    """Kill the server and start it again."""
    def run():
        server_process.kill()
        server_process.start()
    return run


def test_our_server_was_killed_before_it_committed(server_process, client, crash):
    """C11, N14: it remembers nothing, but its storage tells."""
    storage = client(server_process.address)
    meta = vote(storage)
    at_finish(storage, crash, committed=False)
    with pytest.raises(ClientDisconnected, match='nothing was committed'):
        storage.tpc_finish(meta)
    storage.tpc_abort(meta)
    with pytest.raises(POSKeyError):
        storage.loadBefore(OID, maxtid)
    storage.tpc_finish(vote(storage))


def test_our_server_was_killed_after_it_had_committed(server_process, client, crash):
    """C11, N14: tpc_finish returns the tid."""
    storage = client(server_process.address)
    base = storage.tpc_finish(vote(storage))
    meta = vote(storage, b'newer', serial=base)
    at_finish(storage, crash, committed=True)
    tid = storage.tpc_finish(meta)
    assert storage.loadBefore(OID, maxtid) == (b'newer', tid, None)


@pytest.mark.parametrize('committed, packed', [(True, False), (False, False), (False, True)])
def test_somebody_has_written_the_same_since(server_process, client, crash, committed, packed):
    """C11: equal data are not taken for one's own; the tid tells."""
    storage = client(server_process.address)
    pickled = zodb_pickle(PersistentMapping())
    base = storage.tpc_finish(vote(storage, pickled, z64))
    meta = vote(storage, pickled, z64, base)

    def happens():
        crash()
        other = client(server_process.address)
        other.tpc_finish(vote(other, pickled, z64, other.getTid(z64)))
        if packed:
            other.pack()

    at_finish(storage, happens, committed)
    if committed:
        tid = storage.tpc_finish(meta)
        assert storage.loadSerial(z64, tid) == pickled
        assert storage.getTid(z64) > tid
    else:
        # A pack could have removed it.
        with pytest.raises(CommitOutcomeUnknown if packed else ClientDisconnected):
            storage.tpc_finish(meta)


def test_somebody_has_committed_since_and_all_objects_are_new(server_process, client, crash):
    """C11: that nothing was committed cannot be proven, since a pack could have removed it."""
    storage = client(server_process.address)
    meta = vote(storage)

    def happens():
        crash()
        other = client(server_process.address)
        other.tpc_finish(vote(other, zodb_pickle(PersistentMapping()), z64))

    at_finish(storage, happens, committed=False)
    with pytest.raises(CommitOutcomeUnknown):
        storage.tpc_finish(meta)


@pytest.mark.parametrize('committed', [True, False])
def test_a_transaction_of_which_only_the_server_knows_what_it_wrote(server_process, client, crash, committed):
    """C11: an undo."""
    storage = client(server_process.address)
    first = storage.tpc_finish(vote(storage))
    second = storage.tpc_finish(vote(storage, b'newer', serial=first))
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.undo(storage.undoLog(0, 1)[0]['id'], meta)
    assert storage.tpc_vote(meta) == [OID]
    at_finish(storage, crash, committed)
    if committed:
        assert storage.tpc_finish(meta) == storage.getTid(OID)
        assert storage.loadBefore(OID, maxtid)[0] == b'new'
    else:
        with pytest.raises(ClientDisconnected, match='nothing was committed'):
            storage.tpc_finish(meta)
        assert storage.getTid(OID) == second


# ---- several servers ----------------------------------------------------------------------------

@pytest.mark.parametrize('lags', [True, False])
def test_a_replica_proves_only_what_it_has(tmp_path, new_server, client, lags):
    """C11: where the object is what it was before, the server of the commit may have the transaction."""
    first = new_server({'1': FileStorage(str(tmp_path / 'Data.fs'))})
    storage = client(first.addr)
    base = storage.tpc_finish(vote(storage))
    shutil.copy(tmp_path / 'Data.fs', tmp_path / 'Replica.fs')
    meta = vote(storage, b'newer', serial=base)

    def happens():
        if not lags:
            shutil.copy(tmp_path / 'Data.fs', tmp_path / 'Replica.fs')
        replica = new_server({'1': FileStorage(str(tmp_path / 'Replica.fs'))})
        storage.new_addr(replica.addr)

    at_finish(storage, happens, committed=True)
    if lags:
        with pytest.raises(CommitOutcomeUnknown):
            storage.tpc_finish(meta)
    else:
        assert storage.tpc_finish(meta) == first.storages['1'].getTid(OID)


def test_the_same_server_is_known_again_at_another_address(server, client):
    """C11: as with a name that leads to IPv4 and to IPv6."""
    with Proxy(server.addr) as other:
        storage = client(server.addr)
        meta = vote(storage)
        at_finish(storage, lambda: storage.new_addr(other.address), committed=False)
        with pytest.raises(ClientDisconnected, match='nothing was committed'):
            storage.tpc_finish(meta)
