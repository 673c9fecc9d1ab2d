"""Loads, prefetch, iteration and resolving conflicts, with a scripted server."""
from __future__ import annotations

import gc
import threading

import pytest
from BTrees.Length import Length
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import IStorageIteration, IStorageUndoable
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import maxtid

from tests.client.fake_server import Refuse, p64, z64
from zeo_clone.Exceptions import ClientDisconnected, ProtocolError, UnrecognizedResult

OID = p64(7)


def answer_loads(fake):
    fake.answers['loadBefore'] = lambda connection, oid, before: (oid + b'data', p64(1), None)


def test_a_prefetch_asks_nothing_twice(fake, opened):
    """One burst; what is in the cache already, or asked for already, is not asked for."""
    answer_loads(fake)
    storage = opened()
    storage.loadBefore(p64(3), maxtid)
    storage.prefetch([p64(i) for i in (1, 2, 3, 4, 2, 1)], maxtid)
    for number in (1, 2, 3, 4):
        assert storage.loadBefore(p64(number), maxtid) == (p64(number) + b'data', p64(1), None)
    asked = [args[0] for name, args in fake.calls if name == 'loadBefore']
    assert sorted(asked) == [p64(1), p64(2), p64(3), p64(4)]


def test_a_load_waits_for_the_prefetch_that_is_under_way(fake, opened):
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection, oid, before):
        begun.set()
        assert go_on.wait(20)
        return b'data', p64(1), None

    fake.answers['loadBefore'] = slow
    storage = opened()
    storage.prefetch([OID], maxtid)
    assert begun.wait(20)
    found = []
    threads = [threading.Thread(target=lambda: found.append(storage.loadBefore(OID, maxtid)))
               for _ in range(3)]
    for thread in threads:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert found == [(b'data', p64(1), None)] * 3
    assert fake.called('loadBefore') == 1


def test_a_prefetch_of_unknown_objects_does_no_harm(fake, opened):
    def unknown(connection, oid, before):
        raise POSKeyError(oid)

    fake.answers['loadBefore'] = unknown
    storage = opened()
    storage.prefetch([OID], maxtid)
    with pytest.raises(POSKeyError):
        storage.loadBefore(OID, maxtid)


def test_a_large_prefetch_goes_in_bursts(fake, opened):
    answer_loads(fake)
    storage = opened()
    storage.prefetch((p64(i) for i in range(2500)), maxtid)
    storage.ping()  # whose answer comes after all others
    for number in range(2500):
        storage.loadBefore(p64(number), maxtid)
    assert fake.called('loadBefore') == 2500


@pytest.mark.parametrize('oid, error', [('abcdefgh', TypeError), (b'short', POSKeyError)])
def test_a_prefetch_with_a_bad_oid_asks_for_nothing(fake, opened, oid, error):
    answer_loads(fake)
    storage = opened()
    with pytest.raises(error):
        storage.prefetch([OID, oid], maxtid)
    storage.ping()
    assert (fake.called('loadBefore'), storage._loader.prefetching) == (0, {})


def test_a_prefetch_that_fails_half_way_keeps_what_was_asked(fake, opened, monkeypatch):
    """C16: what was numbered is sent, or the connection would count it as waiting for ever; and nobody waits
    for what was not."""
    answer_loads(fake)
    storage = opened()
    channel = storage._manager.ready.channel
    start_load, asked = channel.start_load, []

    def full(*args):
        if len(asked) == 2:
            raise ProtocolError('100000 calls wait for a reply already')
        asked.append(args)
        return start_load(*args)

    monkeypatch.setattr(channel, 'start_load', full)
    with pytest.raises(ProtocolError):
        storage.prefetch([p64(n) for n in range(4)], maxtid)
    monkeypatch.undo()
    storage.ping()
    assert (channel.core.pending, storage._loader.prefetching, len(storage._cache)) == (0, {}, 2)
    assert storage.loadBefore(p64(3), maxtid) == (p64(3) + b'data', p64(1), None)


def test_a_prefetch_on_a_lost_connection_leaves_nobody_waiting(fake, opened, monkeypatch):
    """C16: a thread may have joined a load between its being numbered and its being sent."""
    answer_loads(fake)
    storage = opened()
    channel = storage._manager.ready.channel
    loaded, joined = [], threading.Event()

    def wait(pending):
        joined.set()
        wait_for_reply(pending)

    def cut(loads):
        load.start()
        assert joined.wait(20)
        channel.abort(ClientDisconnected('cut'))
        try:
            send_loads(loads)
        finally:
            load.join(20)

    load = threading.Thread(target=lambda: loaded.append(storage.loadBefore(OID, maxtid)), daemon=True)
    wait_for_reply, send_loads = channel._wait, channel.send_loads
    monkeypatch.setattr(channel, '_wait', wait)
    monkeypatch.setattr(channel, 'send_loads', cut)
    with pytest.raises(ClientDisconnected):
        storage.prefetch([OID], maxtid)
    assert (loaded, storage._loader.prefetching) == ([(OID + b'data', p64(1), None)], {})


def test_a_load_is_repeated_when_the_connection_breaks(fake, opened):
    """N2: a question that changes nothing survives a restart of the server."""
    def cut(connection, oid, before):
        answer_loads(fake)
        connection.cut()
        raise Refuse

    fake.answers['loadBefore'] = cut
    storage = opened()
    assert storage.loadBefore(OID, maxtid) == (OID + b'data', p64(1), None)


@pytest.mark.parametrize('answer', [b'x', (b'x',), (b'x', b'short', None), ('x', p64(1), None),
                                    (b'x', p64(1), 5), (b'x', p64(1), None, None), [b'x', p64(1), None]])
def test_an_answer_that_is_no_revision_is_refused(fake, opened, answer):
    """The other side: types and sizes of the server's answers are checked; the link is dropped."""
    fake.answers['loadBefore'] = lambda connection, oid, before: answer
    storage = opened()
    with pytest.raises(UnrecognizedResult):
        storage.loadBefore(OID, maxtid)
    fake.wait(lambda: len(fake.registered) == 2)


@pytest.mark.parametrize('oid, error', [('abcdefgh', TypeError), (None, TypeError), (b'short', POSKeyError)])
def test_a_bad_oid_is_an_error_at_once(fake, opened, oid, error):
    storage = opened()
    with pytest.raises(error):
        storage.loadBefore(oid, maxtid)
    assert fake.called('loadBefore') == 0


def test_the_storage_provides_what_the_server_offers(fake, opened):
    fake.answers['get_info'] = lambda connection: {
        'supportsUndo': True, 'length': 5, 'size': 1000,
        'interfaces': (('ZODB.interfaces', 'IStorageUndoable'), ('os', 'system'), ('x',), 7)}
    storage = opened()
    assert IStorageUndoable.providedBy(storage)
    assert not IStorageIteration.providedBy(storage)
    assert (len(storage), storage.getSize(), storage.supportsUndo()) == (5, 1000, True)
    fake.client.notice('info', {'length': 6, 'size': 1200})
    storage.ping()
    assert (len(storage), storage.getSize(), storage.supportsUndo()) == (6, 1200, True)


TRANSACTIONS = [((p64(n), ' ', b'user', b'text', {}), [(p64(100 + n), p64(n), b'data', None)])
                for n in range(1, 6)]


def serve_steps(fake):
    """An old server: one transaction, one record at a time."""
    position, records = [], {}

    def start(connection, first, last):
        position[:] = [list(TRANSACTIONS)]
        return 1

    def following(connection, iid):
        return position[0].pop(0)[0] if position[0] else None

    def record_start(connection, iid, tid):
        records[1] = list({t[0]: r for t, r in TRANSACTIONS}[tid])
        return 1

    def record_next(connection, rid):
        return records[rid].pop(0) if records[rid] else None

    fake.answers.update(iterator_start=start, iterator_next=following, iterator_record_start=record_start,
                        iterator_record_next=record_next)


def serve_batches(fake):
    left = list(TRANSACTIONS)

    def batch(connection, iid, size):
        taken, left[:] = left[:2], left[2:]
        return taken

    fake.answers.update(
        iterator_start=lambda connection, first, last: 1, iterator_batch=batch,
        get_info=lambda connection: {'extensions': ('iterator_batch',)})


@pytest.mark.parametrize('serve', [serve_steps, serve_batches])
def test_iteration(fake, opened, serve):
    serve(fake)
    storage = opened()
    seen = []
    for transaction in storage.iterator():
        assert (transaction.status, transaction.user, transaction.description) == (' ', b'user', b'text')
        seen.append((transaction.tid, [(r.oid, r.tid, r.data, r.data_txn, r.version) for r in transaction]))
    assert seen == [(t[0], [(*record, '') for record in records]) for t, records in TRANSACTIONS]
    if serve is serve_batches:
        assert fake.called('iterator_batch') == 4
        assert fake.called('iterator_next') == 0


def test_forgotten_iterators_are_collected(fake, opened):
    """An iterator that nobody uses any more is given back at the next occasion."""
    serve_steps(fake)
    storage = opened()
    iterator = storage.iterator()
    next(iterator)
    del iterator
    gc.collect()
    storage.sync()
    storage.ping()
    assert ('iterator_gc', ([1],)) in fake.calls


def test_conflicts_that_the_server_leaves_to_us_are_resolved(fake, opened):
    """client-conflict-resolution: resolve, store again with the committed serial, vote again."""
    records = {p64(1): zodb_pickle(Length(10)), p64(2): zodb_pickle(Length(13))}
    fake.tid = p64(2)
    fake.answers['loadSerial'] = lambda connection, oid, serial: records[serial]
    answers = [[{'oid': OID, 'serials': (p64(2), p64(1)), 'data': zodb_pickle(Length(11))}], []]
    fake.answers['vote'] = lambda connection, number: answers.pop(0)
    storage = opened()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, p64(1), zodb_pickle(Length(11)), '', meta)
    assert storage.tpc_vote(meta) == [OID]
    storage.tpc_finish(meta)
    stores = [args for name, args in fake.calls if name == 'storea']
    assert stores[1][:3] == (OID, p64(2), zodb_pickle(Length(14)))
    # The client's cache does not keep what it sent first.
    fake.answers['loadBefore'] = lambda connection, oid, before: (stores[1][2], fake.tid, None)
    assert storage.loadBefore(OID, maxtid)[0] == stores[1][2]


def test_a_conflict_that_cannot_be_resolved_is_raised(fake, opened):
    class_that_cannot = b'cpersistent\nPersistent\nq\x01.N.'
    fake.tid = p64(2)
    fake.answers['loadSerial'] = lambda connection, oid, serial: class_that_cannot
    fake.answers['vote'] = lambda connection, number: [
        {'oid': OID, 'serials': (p64(2), p64(1)), 'data': class_that_cannot}]
    storage = opened()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, p64(1), class_that_cannot, '', meta)
    with pytest.raises(ConflictError) as caught:
        storage.tpc_vote(meta)
    assert caught.value.oid == OID
    storage.tpc_abort(meta)


@pytest.mark.parametrize('answer', [5, [5], [{'oid': OID}], [{'oid': OID, 'serials': (1, 2), 'data': b''}]])
def test_a_vote_that_is_no_list_of_oids_is_refused(fake, opened, answer):
    fake.answers['vote'] = lambda connection, number: answer
    storage = opened()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    with pytest.raises(Exception, match='server'):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    fake.wait(lambda: len(fake.registered) == 2)


def test_server_sync_asks_before_each_transaction(fake, opened):
    """C20: with server_sync, sync() returns after everything committed before has arrived."""
    fake.tid = p64(1)
    storage = opened(server_sync=True)

    def ping(connection):
        connection.notice('invalidateTransaction', p64(2), [OID])

    fake.answers['ping'] = ping
    storage.sync()
    assert storage.lastTransaction() == p64(2)
    plain = opened()
    plain.sync()
    assert fake.called('ping') == 1


def test_packing_and_other_questions_have_their_arguments(fake, opened):
    storage = opened(client_label='front 1')
    storage.pack(1000.0, None, wait=0, days=0.001)
    storage.undoInfo(0, -5, {'user_name': b'x'})
    storage.undoLog(0, 3)
    storage.history(OID, 4)
    calls = dict(fake.calls)
    assert calls['pack'] == (1000.0 - 86.4, 0)
    assert calls['undoInfo'] == (0, -5, {'user_name': b'x'})
    assert calls['undoLog'] == (0, 3)
    assert calls['history'] == (OID, 4)
    fake.wait(lambda: ('set_client_label', ('front 1',)) in fake.calls)


def test_deleting_and_restoring(fake, opened):
    storage = opened()
    meta = TransactionMetaData()
    storage.tpc_begin(meta, p64(50), 'p')
    storage.deleteObject(OID, p64(1), meta)
    storage.restore(p64(8), p64(50), None, '', p64(40), meta)
    storage.tpc_vote(meta)
    number = dict(fake.calls)['tpc_begin'][0]
    assert dict(fake.calls)['tpc_begin'][4:] == (p64(50), 'p')
    assert ('deleteObject', (OID, p64(1), number)) in fake.calls
    assert ('restorea', (p64(8), p64(50), None, p64(40), number)) in fake.calls
    storage.tpc_abort(meta)


def test_a_closed_storage_says_so(fake, opened):
    storage = opened()
    storage.close()
    with pytest.raises(ClientDisconnected, match='closed'):
        storage.loadBefore(OID, z64)
