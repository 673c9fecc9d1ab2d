"""Loads, iteration and resolving conflicts, with a scripted server."""
from __future__ import annotations

import gc

import pytest
from BTrees.Length import Length
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import IStorageIteration, IStorageUndoable
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import maxtid

from tests.client.fake_server import Refuse, p64, z64
from zeo_clone.Exceptions import ClientDisconnected, UnrecognizedResult

OID = p64(7)


def answer_loads(fake):
    fake.answers['loadBefore'] = lambda connection, oid, before: (oid + b'data', p64(1), None)


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
