"""C11: the reply to tpc_finish is lost; the client finds out what happened."""
from __future__ import annotations

import pytest
import transaction.interfaces
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, z64

from tests.client.fake_server import FakeServer, Refuse, p64
from tests.client.test_order import Wrapper
from tests.support.proxy import AFTER, BEFORE, DOWN, INSIDE, UP, Proxy
from zeo_clone.client.storage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

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
        link = storage._manager.ready
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


def test_an_older_session_of_the_client_cannot_commit_any_more(server, client):
    """C11: the server closes it before it answers, whatever is still on the way from it."""
    storage = client(server.addr)
    vote(storage)
    session, = server._sessions
    other = client(server.addr, wait=False)
    other._identity.token = storage._identity.token
    other.ping()
    # The lock is free: the transaction of the first session was aborted.
    assert session not in server._sessions
    meta = vote(other, b'other')
    other.tpc_finish(meta)


def test_a_child_of_fork_is_another_client(server, client):
    """It must not close the parent's session."""
    storage = client(server.addr)
    token = storage._identity.token
    other = client(server.addr)
    assert other._identity.token != token
    assert len(token) == 16


# ---- servers that cannot be asked ---------------------------------------------------------------

@pytest.fixture
def fake():
    server = FakeServer()
    yield server
    server.close()


def lose(connection, number):
    connection.cut()
    raise Refuse


@pytest.mark.parametrize('current, base', [(p64(3), p64(3)), (None, z64)])
def test_what_is_stored_shows_that_nothing_was_committed(fake, current, base):
    """C11: the object is what it was before; looked at with the commit lock in hand."""
    def get_tid(connection, oid):
        if current is None:
            raise POSKeyError(oid)
        return current

    fake.tid = p64(3)
    fake.answers['tpc_finish'] = lose
    fake.answers['getTid'] = get_tid
    storage = ClientStorage(fake.address, wait_timeout=10)
    try:
        meta = vote(storage, serial=base)
        with pytest.raises(ClientDisconnected, match='nothing was committed'):
            storage.tpc_finish(meta)
        names = [name for name, _ in fake.client.calls]
        assert names[names.index('tpc_begin'):] == ['tpc_begin', 'vote', 'getTid', 'tpc_abort']
    finally:
        storage.close()


def test_what_is_stored_leaves_it_open(fake):
    """C11: somebody wrote the object; it may have been somebody else."""
    fake.tid = p64(3)
    fake.answers['tpc_finish'] = lose
    fake.answers['getTid'] = lambda connection, oid: p64(4)
    storage = ClientStorage(fake.address, wait_timeout=10)
    try:
        meta = vote(storage, serial=p64(3))
        with pytest.raises(CommitOutcomeUnknown):
            storage.tpc_finish(meta)
        assert 'tpc_abort' in [name for name, _ in fake.client.calls]
    finally:
        storage.close()


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


def test_our_server_was_restarted_meanwhile(tmp_path, new_server, client):
    """C11: it remembers nothing; what is stored tells."""
    def start(addr):
        return new_server({'1': FileStorage(str(tmp_path / 'Data.fs'))}, addr)

    first = start(('127.0.0.1', 0))
    storage = client(first.addr)
    meta = vote(storage)
    address = first.addr
    original = storage._manager.ready.channel.call

    def call(name, args, on_reply=None):
        if name == 'tpc_finish':
            first.close()
            start(address)
        return original(name, args, on_reply)

    storage._manager.ready.channel.call = call
    with pytest.raises(ClientDisconnected):
        storage.tpc_finish(meta)
    storage.tpc_abort(meta)
    storage.tpc_finish(vote(storage))
