"""The order of effects on a client: what the house stands on (design, "Order, the heart of it")."""
from __future__ import annotations

import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid

from tests.client.fake_server import p64, z64
from zeo_clone.Exceptions import ClientDisconnected

OID = p64(7)


class Wrapper:
    """Stands for ZODB's MVCCAdapter: remembers what it was told, and what the storage said then."""

    def __init__(self, storage):
        self.storage = storage
        self.told = []
        self.last_tid_when_told = []
        self.cache_dropped = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error = None
        storage.registerDB(self)

    def invalidate(self, tid, oids):
        self.entered.set()
        assert self.go_on.wait(20)
        self.last_tid_when_told.append(self.storage.lastTransaction())
        self.told.append((tid, list(oids)))
        if self.error is not None:
            raise self.error

    def invalidateCache(self):
        self.cache_dropped += 1

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data


FIRST = p64(1)


def serve_one(fake, data=b'old', tid=FIRST):
    fake.tid = tid
    record = [data, tid, None]
    fake.answers['loadBefore'] = lambda connection, oid, before: tuple(record)
    return record


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


def test_last_transaction_moves_after_the_db_was_told(fake, opened):
    """C2: lastTransaction() is T only after DB.invalidate(T) has returned, however slow it is."""
    serve_one(fake)
    storage = opened()
    db = Wrapper(storage)
    db.go_on.clear()
    fake.client.notice('invalidateTransaction', p64(5), [OID])
    assert db.entered.wait(20)
    assert storage.lastTransaction() == p64(1)
    db.go_on.set()
    storage.ping()
    assert storage.lastTransaction() == p64(5)
    assert db.told == [(p64(5), [OID])]
    assert db.last_tid_when_told == [p64(1)]


def test_last_transaction_moves_after_the_finish_callback(fake, opened):
    """C2: the committer's callback sees the old last tid; afterwards it is the new one."""
    fake.tid = p64(3)
    storage = opened()
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.store(OID, z64, b'new', '', transaction)
    storage.tpc_vote(transaction)
    seen = []
    tid = storage.tpc_finish(transaction, lambda tid: seen.append((tid, storage.lastTransaction())))
    assert seen == [(p64(4), p64(3))]
    assert tid == storage.lastTransaction() == p64(4)


def test_a_reader_waits_for_effects_that_are_under_way(fake, opened):
    """C9: while T takes effect, a read of the state after T is not answered half way."""
    fake.tid = p64(3)
    storage = opened()
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.store(OID, z64, b'new', '', transaction)
    storage.tpc_vote(transaction)
    inside, go_on = threading.Event(), threading.Event()

    def slow(tid):
        inside.set()
        assert go_on.wait(20)

    committer, _ = in_thread(lambda: storage.tpc_finish(transaction, slow))
    assert inside.wait(20)
    reading = threading.Event()
    order = []

    def read():
        reading.set()
        found = storage.loadBefore(OID, maxtid)
        order.append(('read', storage.lastTransaction()))
        return found

    reader, results = in_thread(read)
    assert reading.wait(20)
    assert not order
    go_on.set()
    committer.join()
    reader.join()
    assert results == [(b'new', p64(4), None)]
    assert order == [('read', p64(4))]


def test_nothing_unfinished_enters_the_cache(fake, opened):
    """C8: stored, voted and aborted data are never read from the cache."""
    serve_one(fake)
    storage = opened()
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.store(OID, p64(1), b'unfinished', '', transaction)
    assert storage.loadBefore(OID, maxtid)[0] == b'old'
    storage.tpc_vote(transaction)
    assert storage.loadBefore(OID, maxtid)[0] == b'old'
    storage.tpc_abort(transaction)
    assert storage.loadBefore(OID, maxtid)[0] == b'old'


def test_replies_and_invalidations_take_effect_in_wire_order(fake, opened):
    """C1: a load reply sent before an invalidation is invalidated by it, one sent after is not."""
    record = serve_one(fake)
    storage = opened()

    def answer(connection, oid, before):
        old = tuple(record)
        connection.write(connection.core.send_oneway('invalidateTransaction', (p64(2), [p64(9)])))
        record[:] = [b'new', p64(6), None]
        return old

    fake.answers['loadBefore'] = answer
    assert storage.loadBefore(OID, maxtid) == (b'old', p64(1), None)
    fake.client.notice('invalidateTransaction', p64(6), [OID])
    storage.ping()
    assert storage.lastTransaction() == p64(6)
    assert storage.loadBefore(OID, p64(6)) == (b'old', p64(1), p64(6))
    fake.answers['loadBefore'] = lambda connection, oid, before: tuple(record)
    assert storage.loadBefore(OID, p64(7)) == (b'new', p64(6), None)


def test_a_reply_that_shows_a_transaction_before_its_invalidation_stays_current(fake, opened):
    """C19: invalidate(oid, T) of a record with serial T changes nothing."""
    serve_one(fake, b'new', p64(8))
    fake.tid = p64(7)
    storage = opened()
    assert storage.loadBefore(OID, maxtid) == (b'new', p64(8), None)
    loads = fake.called('loadBefore')
    fake.client.notice('invalidateTransaction', p64(8), [OID])
    storage.ping()
    assert storage.loadBefore(OID, p64(9)) == (b'new', p64(8), None)
    assert fake.called('loadBefore') == loads


def test_a_warm_read_asks_nobody_even_without_a_server(fake, connected):
    """K7: what is in the cache is read without a request, also while the server is away."""
    serve_one(fake)
    storage = connected(wait_timeout=0.2)
    storage.loadBefore(OID, maxtid)
    loads = fake.called('loadBefore')
    fake.answers['register'] = lambda *args: (_ for _ in ()).throw(ValueError('not now'))
    fake.client.cut()
    fake.wait(lambda: fake.client not in fake.connections)
    assert storage.loadBefore(OID, p64(2)) == (b'old', p64(1), None)
    assert fake.called('loadBefore') == loads
    with pytest.raises(ClientDisconnected):
        storage.loadBefore(p64(8), p64(2))


def test_an_effect_that_fails_drops_the_link_and_is_done_again(fake, opened):
    """C17: an exception while an invalidation is applied drops the link; the DB looks again; the cache is
    verified from the last tid that had all its effects."""
    serve_one(fake)
    storage = opened()
    db = Wrapper(storage)
    db.error = OSError('disk full')
    asked = []

    def invalidations(connection, tid):
        asked.append(tid)
        db.error = None
        return p64(5), [OID]

    fake.answers['getInvalidations'] = invalidations
    fake.tid = p64(5)
    fake.client.notice('invalidateTransaction', p64(5), [OID])
    fake.wait(lambda: asked)
    storage.ping()
    assert asked == [p64(1)]
    assert db.cache_dropped == 1
    assert storage.lastTransaction() == p64(5)
    assert db.told[-1] == (p64(5), [OID])


def test_late_news_changes_nothing(fake, opened):
    """C4: an invalidation whose tid is not new is dropped."""
    serve_one(fake, tid=p64(5))
    storage = opened()
    db = Wrapper(storage)
    storage.loadBefore(OID, maxtid)
    fake.client.notice('invalidateTransaction', p64(5), [OID])
    fake.client.notice('invalidateTransaction', p64(4), [OID])
    storage.ping()
    assert db.told == []
    assert storage.lastTransaction() == p64(5)


def test_a_callback_cannot_wait_for_the_server(fake, opened):
    """Honest error instead of a deadlock: a callback runs in the role that reads the replies."""
    fake.tid = p64(3)
    storage = opened()
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.store(OID, z64, b'new', '', transaction)
    storage.tpc_vote(transaction)
    seen = []

    def callback(tid):
        with pytest.raises(Exception, match='cannot wait for the server') as caught:
            storage.ping()
        seen.append(caught)

    storage.tpc_finish(transaction, callback)
    assert len(seen) == 1
