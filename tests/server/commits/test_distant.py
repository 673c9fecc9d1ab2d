"""Phases of a transaction whose steps take their time elsewhere; a test lets each of them end."""
from __future__ import annotations

import pytest
from ZODB.POSException import ConflictError, StorageTransactionError
from ZODB.utils import p64, z64

from tests.server.desk import Desk
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.server.commits.distant import Replaying
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.served import ServedStorage

OID, OTHER = p64(1), p64(2)
TID = p64(5)


class Commit:
    """Steps that end when a test says so: ``steps[-1].succeed(None)``."""

    expected = failing = None

    def __init__(self):
        self.steps, self.names = [], []
        self.operations = []
        self.resolved, self.changed, self.conflicts = [], [], {}
        self.refuses = set()  # steps that cannot begin

    def _begin(self, name):
        self.names.append(name)
        if name in self.refuses:
            raise RuntimeError(f'no thread for {name}')
        self.steps.append(Deferred())
        return self.steps[-1]

    def replay(self, operations):
        self.operations = list(operations)
        return self._begin('replay')

    def conclude(self, free):
        self.free = free
        return self._begin('conclude')

    def give_up(self):
        return self._begin('give up')


class Served(ServedStorage):
    """Its commits are those of the test."""

    is_distant = True

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.commits = []
        self.refuses = set()

    def new_commit(self, client, meta):
        self.commits.append(Commit())
        self.commits[-1].refuses = self.refuses
        return self.commits[-1]

    def replay(self, owner, meta, commit, operations, reply):
        replaying = Replaying(owner, meta, commit, operations, reply)
        owner.move(replaying)
        replaying.start()


@pytest.fixture
def desk():
    desk = Desk()
    desk.served['1'] = Served(desk.loop, '1', desk.storages['1'], history_size=10, timeout_s=30.0,
                              client_conflict_resolution=False)
    return desk


@pytest.fixture
def served(desk):
    return desk.served['1']


@pytest.fixture
def client(desk):
    return desk.connect()


@pytest.fixture
def other(desk):
    """Somebody who wants the lock, too."""
    return desk.connect()


def vote(client):
    """Begin, store and ask for the vote; the number of the call."""
    client.begin()
    client.store(OID)
    return client.start('vote', 7)


def phase(client):
    return client.member.transactor.phase_name


def test_nobody_is_disconnected_while_the_storage_ends_his_transaction(client, served, caplog):
    """C11, L1: it is not he who holds the lock, and he would have to ask for the outcome."""
    vote(client)
    served.loop.turn()
    served.commits[0].steps[-1].succeed(None)
    finishing = client.start('tpc_finish', 7)
    served.loop.advance(31)
    assert client.lost is None
    assert 'has not ended its transaction in 30 s' in caplog.text
    served.commits[0].free()
    served.commits[0].steps[-1].succeed(TID)
    assert client.result(finishing) == TID


def test_a_vote_for_which_the_storage_takes_too_long_is_refused(client, served, other, caplog):
    """L1, L10: its client waits no longer, and keeps its connection: it has not held anybody up."""
    voting = vote(client)
    served.loop.advance(31)
    assert client.lost is None
    with pytest.raises(ClientDisconnected, match='did not vote within 30 s .* nothing was'):
        client.result(voting)
    assert "the storage '1' has not voted on its transaction" in caplog.text
    vote(other)
    commit = served.commits[0]
    commit.steps[-1].succeed(None)
    assert commit.names == ['replay', 'give up'] and len(served.commits) == 1
    commit.steps[-1].succeed(None)
    served.loop.turn()
    assert len(served.commits) == 2
    with pytest.raises(ClientDisconnected, match='did not vote within 30 s'):
        client.call('tpc_finish', 7)
    client.call('tpc_abort', 7)
    assert phase(client) == 'idle'


def is_free(served, other):
    """Can another one commit?"""
    served.loop.turn()
    before = len(served.commits)
    vote(other)
    return len(served.commits) == before + 1


def test_a_transaction_is_voted_on_and_concluded(served, client, other):
    """L2: others wait until the storage says that the next can begin, and no longer."""
    voting = vote(client)
    commit, = served.commits
    assert [operation[1] for operation in commit.operations] == [OID]
    assert phase(client) == 'replaying' and not client.has_reply(voting)
    commit.steps[-1].succeed(None)
    assert client.result(voting) == [] and phase(client) == 'voted'
    finishing = client.start('tpc_finish', 7)
    assert phase(client) == 'finishing'
    waiting = vote(other)
    assert len(served.commits) == 1
    commit.free()
    served.loop.turn()
    assert len(served.commits) == 2 and not other.has_reply(waiting)
    commit.steps[-1].succeed(TID)
    assert client.result(finishing) == TID and phase(client) == 'idle'


@pytest.mark.parametrize('refused', [False, True])
def test_a_vote_that_fails_lets_the_next_go_on(served, client, other, refused):
    """L3, L10: in its thread, or because there is none."""
    served.refuses = {'replay'} if refused else set()
    voting = vote(client)
    if not refused:
        served.commits[0].steps[-1].fail(RuntimeError('no thread for replay'))
    with pytest.raises(Exception, match='no thread for replay'):
        client.result(voting)
    assert phase(client) == 'doomed'
    served.refuses = set()
    assert is_free(served, other)
    client.call('tpc_abort', 7)
    assert phase(client) == 'idle' and served.commits[0].names == ['replay']


def test_a_conflict_is_counted(served, client):
    """L4."""
    voting = vote(client)
    served.commits[0].steps[-1].fail(ConflictError(oid=OID, serials=(z64, TID)))
    with pytest.raises(ConflictError):
        client.result(voting)
    assert served.stats.conflicts == 1


@pytest.mark.parametrize('replayed', [True, False])
def test_an_abort_during_the_vote_waits_for_its_step(served, client, other, replayed):
    """L10, C21: so long the lock is held; what has been begun in the storage is given up."""
    voting = vote(client)
    commit, = served.commits
    aborting = client.start('tpc_abort', 7)
    with pytest.raises(StorageTransactionError, match='aborted during the vote'):
        client.result(voting)
    waiting = vote(other)
    assert not client.has_reply(aborting) and len(served.commits) == 1
    if replayed:
        commit.steps[-1].succeed(None)
        assert commit.names == ['replay', 'give up'] and len(served.commits) == 1
        commit.steps[-1].succeed(None)
    else:
        commit.steps[-1].fail(RuntimeError('broken'))
        assert commit.names == ['replay']  # it has given up by itself
    served.loop.turn()
    assert client.result(aborting) is None and phase(client) == 'idle'
    assert len(served.commits) == 2 and not other.has_reply(waiting)


@pytest.mark.parametrize('refused', [False, True])
def test_an_abort_after_the_vote_gives_up(served, client, other, refused):
    """L10, C21: also where that cannot even begin."""
    vote(client)
    commit, = served.commits
    commit.steps[-1].succeed(None)
    commit.refuses = {'give up'} if refused else set()
    aborting = client.start('tpc_abort', 7)
    if not refused:
        assert phase(client) == 'ending' and not client.has_reply(aborting)
        commit.steps[-1].succeed(None)
    assert client.result(aborting) is None and phase(client) == 'idle'
    assert is_free(served, other)


def test_a_client_that_goes_while_it_is_doomed_and_given_up_is_idle_then(served, client, other):
    """C16, C21: what was to come after the end does not."""
    voting = vote(client)
    commit, = served.commits
    del commit.changed
    commit.steps[-1].succeed(None)
    with pytest.raises(Exception, match='changed'):
        client.result(voting)
    assert phase(client) == 'ending' and commit.names == ['replay', 'give up']
    client.hang_up()
    commit.steps[-1].succeed(None)
    assert phase(client) == 'idle'
    assert is_free(served, other)


def test_a_vote_of_which_the_client_cannot_be_told_is_given_up(served, client, other):
    """C24, L3: the storage could commit, but nobody would know what."""
    voting = vote(client)
    commit, = served.commits
    del commit.changed
    commit.steps[-1].succeed(None)
    with pytest.raises(Exception, match='changed'):
        client.result(voting)
    commit.steps[-1].succeed(None)
    assert phase(client) == 'doomed'
    assert is_free(served, other)


CONFLICT = {'oid': OID, 'serials': (z64, TID), 'data': b'\x80\x03cBTrees.Length\nLength\n.'}


@pytest.fixture
def resolving(served, client):
    """A client that has been asked to resolve a conflict, and its commit."""
    voting = vote(client)
    commit, = served.commits
    commit.conflicts = {OID: CONFLICT}
    commit.steps[-1].succeed(None)
    (told,) = client.result(voting)
    assert told['oid'] == OID and phase(client) == 'resolving'
    assert served.stats.conflicts == 1
    return commit


def test_a_conflict_that_the_client_resolves_is_stored_and_voted_on_again(served, client, resolving):
    """The lock is held meanwhile."""
    client.store(OID, b'resolved', TID)
    voting = client.start('vote', 7)
    assert [operation[1] for operation in resolving.operations] == [OID]
    resolving.conflicts = {}
    resolving.resolved = [OID]
    resolving.steps[-1].succeed(None)
    client.result(voting)
    assert phase(client) == 'voted' and served.stats.conflicts_resolved == 1


@pytest.mark.parametrize('how', ['abort', 'nonsense', 'gone'])
def test_a_client_that_does_not_resolve_it_lets_the_next_go_on(served, client, other, resolving, how):
    """L3, L10, C21: it gives up, sends what is none, or goes."""
    if how == 'abort':
        client.start('tpc_abort', 7)
    elif how == 'nonsense':
        client.oneway('storea', 'no oid', TID, b'data', 7)
    else:
        client.hang_up()
    assert resolving.names == ['replay', 'give up']
    resolving.steps[-1].succeed(None)
    assert phase(client) == ('doomed' if how == 'nonsense' else 'idle')
    assert is_free(served, other)
