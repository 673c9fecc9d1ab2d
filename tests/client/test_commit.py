"""Two-phase commit on the client against a scripted server."""
from __future__ import annotations

import threading

import pytest
import transaction.interfaces
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, ReadOnlyError, StorageTransactionError
from ZODB.utils import maxtid

from tests.client.fake_server import Refuse, p64, z64
from tests.support import inside
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

OID = p64(7)


def begin(storage, oid=OID, data=b'new', serial=z64):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, serial, data, '', meta)
    return meta


def cut(connection, *args):
    connection.cut()
    raise Refuse


def test_the_messages_of_a_commit(fake, opened):
    """The wire of protocol.md, "A commit, Z5"."""
    storage = opened()
    meta = TransactionMetaData(b'user', b'description', {'x': 1})
    storage.tpc_begin(meta)
    storage.store(OID, None, b'data', '', meta)
    assert storage.tpc_vote(meta) == []
    tid = storage.tpc_finish(meta)
    assert tid == p64(1)
    names = [call for call in fake.calls if call[0] not in ('register', 'get_info')]
    number = names[0][1][0]
    assert names == [
        ('tpc_begin', (number, b'user', b'description', {'x': 1}, None, ' ')),
        ('storea', (OID, z64, b'data', number)),
        ('vote', (number,)),
        ('tpc_finish', (number,)),
    ]


def test_an_unresolved_conflict_leaves_the_cache(fake, opened):
    """C12: after a conflict the oid is loaded from the server again."""
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'old', p64(1), None)
    fake.tid = p64(1)
    storage = opened()
    storage.loadBefore(OID, maxtid)

    def conflict(connection, number):
        raise ConflictError(oid=OID, serials=(p64(2), p64(1)))

    fake.answers['vote'] = conflict
    meta = begin(storage)
    with pytest.raises(ConflictError) as caught:
        storage.tpc_vote(meta)
    assert (caught.value.oid, caught.value.serials) == (OID, (p64(2), p64(1)))
    storage.tpc_abort(meta)
    loads = fake.called('loadBefore')
    storage.loadBefore(OID, maxtid)
    assert fake.called('loadBefore') == loads + 1


def test_oids_are_not_reused_over_aborts_and_reconnects(fake, opened):
    """C13: after a reconnect the oids that the old server reserved are given up."""
    batches = []

    def new_oids(connection, n):
        first = 1 + n * len(batches)
        batches.append(first)
        return [p64(i) for i in range(first, first + n)]

    fake.answers['new_oids'] = new_oids
    storage = opened()
    seen = [storage.new_oid() for _ in range(150)]
    meta = begin(storage, seen[-1])
    storage.tpc_abort(meta)
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    seen += [storage.new_oid() for _ in range(150)]
    assert len(set(seen)) == 300
    assert len(batches) >= 4


def test_oids_are_given_up_when_the_link_is_not_ready_any_more(fake, opened):
    """C13: or a thread that has just got some would keep them after the others were given up."""
    storage = opened()
    ready = []
    lost = storage.manager_lost
    storage.manager_lost = lambda link: (ready.append(inside.link(storage)), lost(link))
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    assert ready == [None]


@pytest.mark.parametrize('answer', [None, b'', b'1234567', 'abcdefgh', 5, z64, p64(3)])
def test_only_a_new_tid_is_a_success(fake, opened, answer):
    """C18: tpc_finish takes nothing but an 8-byte tid greater than the last as success."""
    fake.tid = p64(3)
    storage = opened()
    meta = begin(storage)
    storage.tpc_vote(meta)
    fake.answers['tpc_finish'] = lambda connection, number: answer
    with pytest.raises(CommitOutcomeUnknown):
        storage.tpc_finish(meta)
    assert storage.lastTransaction() == p64(3)


@pytest.mark.parametrize('step, expected', [
    ('vote', ClientDisconnected),
    ('tpc_finish', CommitOutcomeUnknown),
])
def test_the_server_goes_at_a_step(fake, opened, step, expected):
    """N14: before tpc_finish a lost server means a retryable error, in it an honest "unknown"."""
    storage = opened()
    original = fake.answers[step]
    fake.answers[step] = cut
    meta = begin(storage)
    with pytest.raises(expected) as caught:
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
    transient = isinstance(caught.value, transaction.interfaces.TransientError)
    assert transient == (expected is ClientDisconnected)
    storage.tpc_abort(meta)
    fake.answers[step] = original
    fake.wait(lambda: len(fake.registered) == 2)
    meta = begin(storage)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)


def test_a_transaction_belongs_to_its_link(fake, opened):
    """Order 6: after a reconnect a transaction begun before can only fail, and retryably."""
    storage = opened()
    meta = begin(storage)
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    with pytest.raises(ClientDisconnected):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    assert fake.called('vote') == 0


def test_what_a_commit_has_left_is_done_during_the_next_one_s_vote(fake, opened):
    """C8: the cache has it all when tpc_finish returns, but its file is written while the server works."""
    storage = opened()
    settled = threading.Event()

    def vote(connection, number):
        assert settled.wait(20)
        return []

    def commit():
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        for number in range(3):
            storage.store(p64(number), storage.lastTransaction(), b'data', '', meta)
        storage.tpc_vote(meta)
        return storage.tpc_finish(meta)

    assert not inside.cache(storage).late
    first = commit()
    assert inside.cache(storage).late
    write_late = inside.cache(storage).write_late
    inside.cache(storage).write_late = lambda: (write_late(), settled.set())
    fake.answers['vote'] = vote
    second = commit()
    assert storage.loadBefore(p64(1), maxtid) == (b'data', second, None)
    assert storage.loadBefore(p64(1), second) == (b'data', first, second)
    assert fake.called('loadBefore') == 0


def test_a_link_lost_after_vote_cannot_commit(fake, opened):
    """Order 6, N14: between vote and finish; nothing was sent, so the error is retryable."""
    storage = opened()
    meta = begin(storage)
    storage.tpc_vote(meta)
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    with pytest.raises(ClientDisconnected):
        storage.tpc_finish(meta)
    assert fake.called('tpc_finish') == 0


@pytest.mark.parametrize('step', ['vote', 'tpc_finish', 'tpc_abort'])
def test_an_error_at_any_step_leaves_the_client_able_to_commit(fake, opened, step):
    """L3, C24: an exception of the server in vote, finish or abort is raised, in finish as what it means, and
    the next commit works."""
    storage = opened()
    original = fake.answers.get(step)

    def fail(connection, number):
        raise KeyError('broken')

    fake.answers[step] = fail
    meta = begin(storage)
    with pytest.raises(CommitOutcomeUnknown if step == 'tpc_finish' else KeyError, match='broken'):
        storage.tpc_vote(meta)
        if step == 'tpc_abort':
            storage.tpc_abort(meta)
        storage.tpc_finish(meta)
    fake.answers[step] = original or (lambda connection, number: None)
    storage.tpc_abort(meta)
    meta = begin(storage)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)


def test_a_thread_does_not_wait_for_itself_for_ever(fake, opened):
    """L3: as when a program undoes and changes the same database in one transaction."""
    storage = opened(wait_timeout=0.1)
    first = begin(storage)
    with pytest.raises(StorageTransactionError, match='An undo and a change of the same database are two'):
        begin(storage)
    storage.tpc_vote(first)
    storage.tpc_finish(first)
    storage.tpc_abort(begin(storage))


def test_a_thread_waits_for_what_another_one_ends(fake, opened):
    """L2: a transaction may be handed on."""
    storage = opened()
    first, begins = begin(storage), threading.Event()
    ending = threading.Thread(target=lambda: begins.wait() and storage.tpc_abort(first))
    ending.start()
    begins.set()
    second = begin(storage)
    ending.join()
    storage.tpc_vote(second)
    storage.tpc_finish(second)


def test_the_wrong_transaction_is_refused(fake, opened):
    storage = opened()
    meta = begin(storage)
    other = TransactionMetaData()
    for wrong in (
            lambda: storage.tpc_begin(meta),
            lambda: storage.store(OID, z64, b'', '', other),
            lambda: storage.tpc_vote(other),
            lambda: storage.tpc_finish(other),
            lambda: storage.tpc_finish(meta)):
        with pytest.raises(StorageTransactionError):
            wrong()
    storage.tpc_abort(other)  # ignored
    storage.tpc_vote(meta)
    with pytest.raises(StorageTransactionError):
        storage.store(OID, z64, b'', '', meta)
    storage.tpc_finish(meta)
    storage.tpc_abort(meta)  # ignored


def test_transactions_of_threads_take_turns(fake, opened):
    storage = opened()
    first = begin(storage)
    started = threading.Event()

    def second():
        started.set()
        meta = begin(storage, data=b'second')
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)

    thread = threading.Thread(target=second)
    thread.start()
    assert started.wait(20)
    storage.tpc_vote(first)
    storage.tpc_finish(first)
    thread.join()
    data = [args[2] for name, args in fake.calls if name == 'storea']
    assert data == [b'new', b'second']


def test_a_read_only_storage_refuses_to_write(fake, opened):
    storage = opened(read_only=True)
    meta = TransactionMetaData()
    for write in (storage.new_oid, lambda: storage.tpc_begin(meta),
                  lambda: storage.store(OID, z64, b'', '', meta), lambda: storage.undo(b'x', meta)):
        with pytest.raises(ReadOnlyError):
            write()
    assert [args for name, args in fake.calls if name == 'register'] == [('1', True)]


def test_own_data_are_warm_after_the_commit(fake, opened):
    """C8: the cache is filled after the tpc_finish reply, so that the committer reads warm."""
    storage = opened()
    meta = begin(storage, data=b'mine')
    storage.tpc_vote(meta)
    tid = storage.tpc_finish(meta)
    assert storage.loadBefore(OID, maxtid) == (b'mine', tid, None)
    assert fake.called('loadBefore') == 0


def test_data_that_the_server_changed_are_not_cached(fake, opened):
    """Resolved conflicts and undone objects: only the server has the data that count."""
    fake.answers['vote'] = lambda connection, number: [OID]
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'resolved', fake.tid, None)
    storage = opened()
    meta = begin(storage, data=b'mine')
    assert storage.tpc_vote(meta) == [OID]
    tid = storage.tpc_finish(meta)
    assert storage.loadBefore(OID, maxtid) == (b'resolved', tid, None)
