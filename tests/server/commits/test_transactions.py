"""Transactions of sessions: phases, the commit lock, failures, what is told to whom.  No sockets."""
from __future__ import annotations

import errno
import logging
import time

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, ReadConflictError, StorageError, StorageTransactionError
from ZODB.utils import maxtid, p64, u64, z64

from tests.server.desk import Desk
from zeo_clone.server.commits import operations, phases

OIDS = [p64(number) for number in range(20)]
OID = OIDS[1]


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def client(desk):
    return desk.connect()


@pytest.fixture
def file_desk(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    yield Desk({'1': storage})
    storage.close()


class Broken(MappingStorage):
    """Fails in the methods named in `failing`, once each."""

    def __init__(self, *failing):
        super().__init__()
        self.failing = list(failing)

    def _maybe(self, name):
        if name in self.failing:
            self.failing.remove(name)
            raise RuntimeError(f'{name} failed')

    def tpc_begin(self, *args):
        super().tpc_begin(*args)
        self._maybe('tpc_begin')  # only now: half begun

    def store(self, *args):
        self._maybe('store')
        return super().store(*args)

    def tpc_vote(self, *args):
        self._maybe('tpc_vote')
        return super().tpc_vote(*args)

    def tpc_finish(self, *args):
        self._maybe('tpc_finish')
        return super().tpc_finish(*args)

    def tpc_abort(self, *args):
        self._maybe('tpc_abort')
        return super().tpc_abort(*args)


def invalidations(client):
    return [args for name, args in client.take_notices() if name == 'invalidateTransaction']


# ---- a commit -------------------------------------------------------------------------------------

def test_a_commit(client):
    client.begin()
    client.store(OID, b'one')
    assert client.call('vote', 7) == []
    tid = client.call('tpc_finish', 7)
    assert client.call('loadBefore', OID, maxtid) == (b'one', tid, None)


def test_nothing_reaches_the_storage_before_the_vote(desk, client):
    client.begin()
    client.store(OID)
    assert desk.storages['1'].tpc_transaction() is None


def test_the_committer_gets_info_before_its_finish_reply_and_no_invalidation(client):
    client.begin()
    client.store(OID)
    client.call('vote', 7)
    client.take_notices()
    reply = client.start('tpc_finish', 7)
    first, second = (data[4:] for data in client.channel.out)
    assert b'info' in first and b'.reply' in second
    tid = client.result(reply)
    assert client.take_notices() == [('info', ({'length': 1, 'size': 154},))]
    assert tid


def test_every_other_client_of_the_storage_is_told_once(desk, client):
    others = [desk.connect(), desk.connect(read_only=True)]
    stranger = desk.stranger()
    stranger.greet()
    tid = client.commit(OIDS[1], OIDS[2])
    assert [other.take_notices() for other in others] == [
        [('invalidateTransaction', (tid, [OIDS[1], OIDS[2]]))]] * 2
    assert stranger.take_notices() == []


def test_an_oid_stored_twice_is_invalidated_once(desk, client):
    other = desk.connect()
    tid = client.commit(OID, OID)
    assert invalidations(other) == [(tid, [OID])]


def test_an_invalidation_lists_every_oid_that_was_written(file_desk):
    """C3: new, changed, undone, restored and deleted ones."""
    client, other = file_desk.connect(), file_desk.connect()
    first = client.commit(*OIDS[:4])
    second = client.commit(OIDS[1], serial=first, data=b'changed')
    file_desk.runtime.now = time.time()
    chosen = p64(u64(second) + 1)
    client.begin(9, tid=chosen)
    client.store(OIDS[5], transaction_id=9)
    client.oneway('undoa', client.call('undoLog', 0, 1)[0]['id'], 9)
    client.oneway('deleteObject', OIDS[2], first, 9)
    client.oneway('restorea', OIDS[3], chosen, b'restored', None, 9)
    client.oneway('checkCurrentSerialInTransaction', OIDS[0], first, 9)
    assert client.call('vote', 9) == [OIDS[1]]
    invalidations(other)
    tid = client.call('tpc_finish', 9)
    (told, oids), = invalidations(other)
    assert told == tid == chosen
    assert sorted(oids) == [OIDS[1], OIDS[2], OIDS[3], OIDS[5]]
    assert sorted(other.call('getInvalidations', second)[1]) == sorted(oids)


def test_the_vote_answers_with_the_oids_that_undo_changed(file_desk):
    client = file_desk.connect()
    tid = client.commit(OID)
    client.commit(OID, serial=tid, data=b'changed')
    client.begin()
    client.oneway('undoa', client.call('undoLog', 0, 1)[0]['id'], 7)
    assert client.call('vote', 7) == [OID]
    client.call('tpc_finish', 7)
    assert client.call('loadBefore', OID, maxtid)[0] == b'data'


class WritesMore(MappingStorage):
    """Says at the vote only which objects it has written besides."""

    def tpc_vote(self, transaction):
        super().tpc_vote(transaction)
        return [OIDS[1]]


def test_what_a_storage_says_at_the_vote_that_it_has_written_is_invalidated():
    """C3: some undo like that, RelStorage for one."""
    desk = Desk({'1': WritesMore()})
    writer, listener = desk.connect(), desk.connect()
    writer.begin()
    writer.store(OIDS[0])
    assert writer.call('vote', 7) == [OIDS[1]]
    tid = writer.call('tpc_finish', 7)
    assert invalidations(listener) == [(tid, [OIDS[0], OIDS[1]])]


def test_a_transaction_may_bring_its_own_tid_and_status(file_desk):
    client = file_desk.connect()
    file_desk.runtime.now = time.time()
    client.begin(tid=p64(1 << 58), status='p')
    client.oneway('restorea', OID, p64(1 << 58), b'copied', None, 7)
    client.call('vote', 7)
    assert client.call('tpc_finish', 7) == p64(1 << 58)
    assert [entry.status for entry in file_desk.storages['1'].iterator()] == ['p']


def test_a_large_transaction_lets_others_have_their_turn(desk, client, monkeypatch):
    monkeypatch.setattr(phases, 'OPERATIONS_PER_TURN', 3)
    monkeypatch.setattr(operations, 'SPOOL_SIZE', 500)
    other = desk.connect()
    client.begin()
    for oid in OIDS[:10]:
        client.store(oid)
    turns = []
    monkeypatch.setattr(desk.loop, 'turn', lambda: None)
    vote = client.start('vote', 7)
    while not client.has_reply(vote):
        turns.append(other.call('ping'))
        callbacks, desk.loop.callbacks = desk.loop.callbacks, []
        for callback in callbacks:
            callback()
    assert len(turns) == 3
    assert client.result(vote) == []
    client.call('tpc_finish', 7)
    assert len(desk.storages['1']) == 10


@pytest.mark.parametrize('leave', [
    lambda client: client.call('tpc_abort', 7), lambda client: client.hang_up()])
def test_a_large_transaction_can_be_aborted_on_its_way_into_the_storage(desk, client, monkeypatch, leave):
    """L10, S3: some operations are in the storage, the others wait for the next turn."""
    monkeypatch.setattr(phases, 'OPERATIONS_PER_TURN', 3)
    client.begin()
    for oid in OIDS[:10]:
        client.store(oid)
    with monkeypatch.context() as context:
        context.setattr(desk.loop, 'turn', lambda: None)
        vote = client.start('vote', 7)
        assert desk.storages['1'].tpc_transaction() is not None
        leave(client)
        assert desk.storages['1'].tpc_transaction() is None
    desk.loop.turn()
    assert desk.connect().commit(OID)
    assert desk.served['1'].stats.active_txns == 0
    if client.lost is None:
        with pytest.raises(StorageTransactionError, match='aborted during the vote'):
            client.result(vote)
        assert client.commit(OIDS[11])


def test_tids_go_up_one_after_the_other(desk):
    """C20."""
    clients = [desk.connect() for _ in range(3)]
    tids = [clients[number % 3].commit(OIDS[number]) for number in range(10)]
    assert tids == sorted(set(tids))


# ---- conflicts ------------------------------------------------------------------------------------

def test_a_conflict_fails_the_vote_with_its_arguments_and_is_counted_not_logged(desk, client, caplog):
    """L4."""
    first = client.commit(OID)
    second = client.commit(OID, serial=first)
    with caplog.at_level(logging.DEBUG):
        client.begin()
        client.store(OID, serial=first)
        with pytest.raises(ConflictError) as caught:
            client.call('vote', 7)
    assert (caught.value.oid, caught.value.serials) == (OID, (second, first))
    assert desk.served['1'].stats.conflicts == 1
    levels = {record.levelno for record in caplog.records}
    assert levels == {logging.DEBUG}
    assert any(OID.hex() in message and 'class' in message for message in caplog.messages)
    assert not any(record.exc_info for record in caplog.records)


def test_a_stale_read_fails_the_vote(client):
    first = client.commit(OID)
    client.commit(OID, serial=first)
    client.begin()
    client.oneway('checkCurrentSerialInTransaction', OID, first, 7)
    with pytest.raises(ReadConflictError):
        client.call('vote', 7)


def test_after_a_conflict_client_and_server_can_commit_again(desk, client):
    """L3, B3."""
    first = client.commit(OID)
    second = client.commit(OID, serial=first)
    client.begin()
    client.store(OID, serial=first)
    with pytest.raises(ConflictError):
        client.call('vote', 7)
    assert desk.connect().commit(OIDS[2])
    assert client.call('tpc_abort', 7) is None
    assert client.commit(OID, serial=second)


def test_conflicts_left_to_the_client_are_told_and_resolved_under_the_lock():
    desk = Desk(client_conflict_resolution=True)
    client, other = desk.connect(), desk.connect()
    first = client.commit(OID, OIDS[2])
    second = client.commit(OID, serial=first)
    client.begin()
    client.store(OID, b'mine', first)
    client.store(OIDS[2], b'no conflict', first)
    assert client.call('vote', 7) == [{'oid': OID, 'serials': (second, first), 'data': b'mine'}]
    other.begin(8)
    waiting = other.start('vote', 8)
    assert not other.has_reply(waiting)
    client.store(OID, b'resolved', second)
    assert client.call('vote', 7) == []
    tid = client.call('tpc_finish', 7)
    assert client.call('loadBefore', OID, maxtid) == (b'resolved', tid, None)
    assert sorted(other.call('getInvalidations', second)[1]) == [OID, OIDS[2]]
    assert other.result(waiting) == []


def test_why_a_vote_on_what_the_client_has_resolved_fails_is_told():
    """L3: its reason, whatever it is, and the next can commit."""
    storage = Broken()
    desk = Desk({'1': storage}, client_conflict_resolution=True)
    client = desk.connect()
    first = client.commit(OID)
    second = client.commit(OID, serial=first)
    client.begin()
    client.store(OID, b'mine', first)
    client.call('vote', 7)
    client.store(OID, b'resolved', second)
    storage.failing.append('tpc_vote')
    with pytest.raises(Exception, match='tpc_vote failed'):
        client.call('vote', 7)
    client.call('tpc_abort', 7)
    assert desk.connect().commit(OID, serial=second)


# ---- the wrong moment -----------------------------------------------------------------------------

def test_finishing_an_unknown_or_foreign_transaction_is_an_error(desk, client):
    """C18."""
    other = desk.connect()
    client.begin()
    client.call('vote', 7)
    for session, transaction_id in [(other, 7), (client, 8)]:
        with pytest.raises(StorageTransactionError):
            session.call('tpc_finish', transaction_id)
    assert client.call('tpc_finish', 7)
    with pytest.raises(StorageTransactionError):
        client.call('tpc_finish', 7)


def test_finishing_before_the_vote_is_an_error(client):
    """C18."""
    client.begin()
    with pytest.raises(StorageTransactionError, match='tpc_finish is not possible: the transaction is begun'):
        client.call('tpc_finish', 7)


def test_voting_twice_is_an_error(client):
    client.begin()
    client.call('vote', 7)
    with pytest.raises(StorageTransactionError, match='vote is not possible: the transaction is voted'):
        client.call('vote', 7)


def test_aborting_what_is_not_there_is_harmless(client):
    assert client.call('tpc_abort', 7) is None


@pytest.mark.parametrize('name, args', [
    ('storea', (OID, z64, b'', 7)), ('storea', (OID, z64, b'', 'other')), ('undoa', (b'id', 8)),
    ('storea', (b'bad', z64, b'', 7)), ('tpc_begin', (8, b'', b'', {}))])
def test_an_operation_without_its_transaction_closes_the_connection(client, name, args):
    if name == 'tpc_begin':
        client.begin()
    client.oneway(name, *args)
    assert 'one-way' in client.lost


@pytest.mark.parametrize('name, args', [
    ('storea', (b'short', z64, b'data', 7)), ('storea', (OID, b'short', b'data', 7)),
    ('storea', (OID, z64, 'text', 7)), ('storea', (OID, z64, None, 7)), ('storea', (OID, z64, b'data', [7])),
    ('restorea', (OID, z64, 7, None, 7)), ('undoa', (7, 7)),
    ('deleteObject', (OID, 7, 7)), ('checkCurrentSerialInTransaction', ([], z64, 7))])
def test_a_bad_argument_of_an_operation_is_told_at_the_vote(desk, client, name, args):
    """S5a."""
    client.begin()
    client.oneway(name, *args)
    client.store(OIDS[3])
    with pytest.raises(ValueError, match=f'{name}: .+ expected, not'):
        client.call('vote', 7)
    assert client.call('tpc_abort', 7) is None
    assert len(desk.storages['1']) == 0
    assert client.commit(OID)


def test_a_user_name_that_the_storage_refuses_is_told_at_the_vote(file_desk):
    """L3, L8."""
    client = file_desk.connect()
    client.oneway('tpc_begin', 7, b'x' * 70000, b'', {}, None, ' ')
    with pytest.raises(StorageError, match='user name too long'):
        client.call('vote', 7)
    client.call('tpc_abort', 7)
    assert client.commit(OID), 'the storage is not left half begun'


@pytest.mark.parametrize('method', ['tpc_begin', 'store', 'tpc_vote'])
def test_a_full_disk_is_said_to_be_the_servers(method, monkeypatch):
    """L7: clients have disks, too."""
    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    storage = MappingStorage()
    client = Desk({'1': storage}).connect()
    monkeypatch.setattr(storage, method, full)
    client.begin()
    client.store(OID, b'data')
    with pytest.raises(OSError, match='the server cannot write the transaction: No space left') as caught:
        client.call('vote', 7)
    assert caught.value.errno == errno.ENOSPC
    client.call('tpc_abort', 7)


def test_no_space_for_the_spool_file_is_told_at_the_vote(desk, client, monkeypatch, caplog):
    """L7: with the directory."""
    def full(directory=None):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(operations, 'SPOOL_SIZE', 100)
    desk.loop.runtime.temporary_file = full
    client.begin()
    client.store(OID, b'x' * 1000)
    client.store(OIDS[2], b'x' * 1000)
    with pytest.raises(OSError, match='temporary directory /.+: No space left') as caught:
        client.call('vote', 7)
    assert caught.value.errno == errno.ENOSPC
    assert [record.levelname for record in caplog.records] == ['ERROR']
    client.call('tpc_abort', 7)
    monkeypatch.undo()
    assert client.commit(OID)


# ---- the commit lock ------------------------------------------------------------------------------

def vote(client):
    client.begin()
    client.store(OID)
    return client.start('vote', 7)


def test_votes_are_granted_first_come_first_served(desk):
    """L2."""
    clients = [desk.connect() for _ in range(4)]
    for client in clients:
        client.begin()
    votes = [client.start('vote', 7) for client in clients]
    for number, client in enumerate(clients):
        assert [c.has_reply(v) for c, v in zip(clients, votes, strict=True)] == (
            [True] * (number + 1) + [False] * (3 - number))
        client.call('tpc_finish', 7)


@pytest.mark.parametrize('leave', [
    lambda client: client.hang_up(), lambda client: client.call('tpc_abort', 7),
    lambda client: client.feed(b'\x80garbage')])
def test_waiting_clients_that_vanish_do_not_stall_the_queue(desk, leave):
    """L2, C16."""
    first, second, third = (desk.connect() for _ in range(3))
    for client in (first, second, third):
        client.begin()
    first.start('vote', 7)
    second.start('vote', 7)
    waiting = third.start('vote', 7)
    leave(second)
    assert desk.served['1'].status()['waiting'] == 1
    first.call('tpc_finish', 7)
    assert third.result(waiting) == []


def test_a_vote_that_is_aborted_while_it_waits_is_answered_once(desk):
    """S3."""
    first, second = desk.connect(), desk.connect()
    first.begin()
    second.begin()
    first.start('vote', 7)
    waiting = second.start('vote', 7)
    second.call('tpc_abort', 7)
    with pytest.raises(StorageTransactionError, match='aborted'):
        second.result(waiting)
    first.call('tpc_abort', 7)
    assert second.commit(OID)


@pytest.mark.parametrize('leave', [
    lambda client: client.call('tpc_finish', 7), lambda client: client.call('tpc_abort', 7),
    lambda client: client.hang_up(), lambda client: client.feed(b'\x80garbage'),
    lambda client: client.oneway('storea', OID, z64, b'', 7)])
def test_the_lock_is_free_as_soon_as_its_holder_is_done_however_that_happens(desk, leave):
    """L10, C16."""
    holder, other = desk.connect(), desk.connect()
    vote(holder)
    other.begin(8)
    waiting = other.start('vote', 8)
    assert desk.served['1'].status()['lock_time'] == 1000.0
    leave(holder)
    assert other.result(waiting) == []
    other.call('tpc_abort', 8)
    assert desk.served['1'].status()['lock_time'] is None
    assert desk.storages['1'].tpc_transaction() is None


def test_a_client_that_vanishes_between_the_grant_and_its_turn(desk, monkeypatch):
    """L2: the grant comes through the loop's door; the client may be gone by then."""
    first, second, third = (desk.connect() for _ in range(3))
    for client in (first, second, third):
        client.begin()
    first.start('vote', 7)
    second.start('vote', 7)
    waiting = third.start('vote', 7)
    monkeypatch.setattr(desk.loop, 'turn', lambda: None)
    first.call('tpc_finish', 7)
    second.hang_up()
    monkeypatch.undo()
    desk.loop.turn()
    assert third.result(waiting) == []


def test_a_holder_that_hangs_is_disconnected_and_named(desk, caplog):
    """L1, L10."""
    holder, other = desk.connect(), desk.connect()
    holder.oneway('set_client_label', 'worker 3')
    holder.oneway('tpc_begin', 7, b'fred', b'/edit', {}, None, ' ')
    holder.start('vote', 7)
    other.begin(8)
    waiting = other.start('vote', 8)
    desk.loop.advance(29)
    assert holder.lost is None
    desk.loop.advance(1.1)
    assert holder.lost == 'transaction timeout'
    line, = (message for message in caplog.messages if 'Transaction timeout' in message)
    for part in ('peer:1 (worker 3)', "user 'fred'", "description '/edit'", "storage '1'", '30'):
        assert part in line
    assert other.result(waiting) == []
    desk.loop.advance(29)
    assert other.lost is None, 'the next holder has its whole time'


def test_a_transaction_that_has_not_voted_may_take_its_time(desk, client):
    client.begin()
    desk.loop.advance(1000)
    client.store(OID)
    assert client.call('vote', 7) == []


def test_a_holder_that_was_in_time_is_left_alone(desk, client):
    client.commit(OID)
    desk.loop.advance(1000)
    assert client.lost is None


def test_the_time_out_can_be_switched_off():
    """L1."""
    desk = Desk(timeout_s=0)
    client = desk.connect()
    vote(client)
    desk.loop.advance(1e6)
    assert client.call('tpc_finish', 7)


def test_the_log_tells_how_many_transactions_wait_and_warns_seldom(desk, caplog):
    """N15."""
    clients = [desk.connect() for _ in range(12)]
    with caplog.at_level(logging.DEBUG):
        for client in clients:
            vote(client)
    lines = [record for record in caplog.records if 'transactions waiting' in record.message]
    assert [record.message.split(' has ')[1] for record in lines] == [
        f'{number} transactions waiting; the commit lock is held by peer:1 '
        "(user '', description '')" for number in range(1, 12)]
    assert [record.levelname for record in lines].count('WARNING') == 1


def test_whoever_holds_the_commit_lock_for_long_is_named_in_the_log(desk, client, caplog):
    """L1."""
    client.oneway('set_client_label', 'instance 1')
    vote(client)
    vote(desk.connect())
    desk.loop.advance(6)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ('WARNING', "peer:1 (instance 1): has held the commit lock of storage '1' for 6 s (user '', "
                    "description '', voted), 1 more wait for it")]


# ---- storages that fail ---------------------------------------------------------------------------

@pytest.mark.parametrize('step', ['tpc_begin', 'store', 'tpc_vote', 'tpc_finish'])
def test_after_a_failure_at_any_step_both_sides_can_commit_again(step):
    """L3, L9."""
    desk = Desk({'1': Broken(step)})
    client, other = desk.connect(), desk.connect()
    client.begin()
    client.store(OID)
    with pytest.raises(Exception, match=f'{step} failed'):
        client.call('vote', 7)
        client.call('tpc_finish', 7)
    assert other.commit(OIDS[2])
    client.call('tpc_abort', 7)
    assert client.commit(OIDS[3])


def test_a_storage_that_fails_in_tpc_finish_is_marked_until_it_works_again(caplog):
    """L9."""
    desk = Desk({'1': Broken('tpc_finish'), 'other': MappingStorage()})
    client = desk.connect()
    client.begin()
    client.call('vote', 7)
    with pytest.raises(Exception, match='tpc_finish failed'):
        client.call('tpc_finish', 7)
    assert desk.ruok()['1']['failed'] == 'tpc_finish: RuntimeError: tpc_finish failed'
    assert desk.ruok()['other']['failed'] is None
    assert [record.levelname for record in caplog.records][0] == 'CRITICAL'
    client.commit(OID)
    assert desk.ruok()['1']['failed'] is None


def test_a_storage_that_stays_in_a_transaction_refuses_commits_instead_of_hanging(caplog):
    """L9: its own lock is held; the others go on, and so does it once it lets go."""
    desk = Desk({'1': Broken(*5 * ['tpc_abort']), 'other': MappingStorage()})
    client, other = desk.connect(), desk.connect('other')
    vote(client)
    client.call('tpc_abort', 7)
    assert desk.ruok()['1']['failed'] == 'tpc_abort: RuntimeError: tpc_abort failed'
    client.begin(8)
    with pytest.raises(StorageError, match='is stuck in a transaction, .* restart the server: tpc_abort'):
        client.call('vote', 8)
    assert client.call('lastTransaction') == z64
    assert other.commit(OID)
    client.call('tpc_abort', 8)
    assert client.commit(OID)
    assert any('failed in tpc_abort' in message for message in caplog.messages)


def test_what_a_failing_tpc_finish_committed_all_the_same_is_invalidated(desk):
    """C3, L9."""
    storage = desk.storages['1']
    finish = storage.tpc_finish

    def committed_but(transaction):
        finish(transaction)
        raise OSError('the disk went away just afterwards')

    client, other = desk.connect(), desk.connect()
    storage.tpc_finish = committed_but
    vote(client)
    tid = client.call('tpc_finish', 7)
    assert storage.lastTransaction() == tid
    assert invalidations(other) == [(tid, [OID])] and invalidations(client) == []


# ---- Z4 -------------------------------------------------------------------------------------------

def test_old_clients_get_serials_before_the_vote_reply(desk):
    client, other = desk.connect(protocol='Z4'), desk.connect()
    client.begin()
    client.store(OIDS[1], serial=None)
    client.store(OIDS[2])
    assert client.call('vote', 7) is None
    (name, (serials,)), = client.take_notices()
    tid = client.call('tpc_finish', 7)
    assert (name, serials) == ('serialnos', [(OIDS[1], tid), (OIDS[2], tid)])
    assert invalidations(other) == [(tid, OIDS[1:3])]
    assert [name for name, _ in client.take_notices()] == ['info']


def test_old_clients_learn_of_a_failed_store_from_the_serials(desk):
    client = desk.connect(protocol='Z4')
    client.begin()
    client.store(OID)
    client.call('vote', 7)
    client.call('tpc_finish', 7)
    client.take_notices()
    client.begin()
    client.store(OID)
    assert client.call('vote', 7) is None
    (_, ([(oid, error)],)), = client.take_notices()
    assert (oid, type(error)) == (OID, ConflictError)
    client.call('tpc_abort', 7)
    assert desk.storages['1'].tpc_transaction() is None


def test_old_clients_register_without_a_tid_and_see_extension_methods(file_desk):
    client = file_desk.stranger()
    client.greet('Z4')
    assert client.call('getAuthProtocol') is None
    assert client.call('register', '1', 0) is None
    assert client.call('lastTransaction') == z64
    assert client.call('get_info')['extensionMethods'] == {'answer_to_the_ultimate_question': None}
