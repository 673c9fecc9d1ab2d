"""C16, C17: what is called on the application's side of a client raises, at each place and at each call."""
from __future__ import annotations

import logging
import sys
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid

from tests.client.fake_server import p64, z64
from tests.client.test_order import Wrapper
from tests.support import inside
from zeo_clone.client import search
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import REAL

OID = p64(7)


class Listener(Wrapper):
    """A DB of which some calls fail: ``failing[method]`` is a set of numbers of calls, from 1."""

    def __init__(self, storage, **failing):
        self.calls = {'invalidate': 0, 'invalidateCache': 0}
        self.failing = failing
        super().__init__(storage)

    def _called(self, method):
        self.calls[method] += 1
        if self.calls[method] in self.failing.get(method, ()):
            raise AttributeError(f"no 'db', at call {self.calls[method]} of {method}")

    def invalidate(self, tid, oids):
        self._called('invalidate')
        super().invalidate(tid, oids)

    def invalidateCache(self):
        self._called('invalidateCache')
        super().invalidateCache()


ALL = range(1, 1000)


@pytest.fixture
def storage(fake, opened, monkeypatch):
    monkeypatch.setattr(search, 'FIRST_PAUSE_S', 0.001)
    fake.tid = p64(1)
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'%d' % fake.tid[7], fake.tid, None)
    fake.answers['getInvalidations'] = lambda connection, tid: (fake.tid, [OID])
    storage = opened(wait_timeout=20)
    storage.loadBefore(OID, maxtid)
    return storage


def commit_elsewhere(fake):
    fake.next_tid()
    fake.client.notice('invalidateTransaction', fake.tid, [OID])


def commit_while_it_is_away(fake):
    fake.next_tid()
    before = fake.client
    before.cut()
    fake.wait(lambda: fake.client is not before)


def catch_up(storage, tid):
    for _ in range(1000):
        storage.ping()
        if storage.lastTransaction() >= tid:
            return
    raise AssertionError(f'still at {storage.lastTransaction()}')


@pytest.mark.parametrize('told_too_late', [{1}, {1, 2}, {2}, {1, 3}, ALL], ids=str)
@pytest.mark.parametrize('told', [{1}, {1, 2}, {2}, {1, 2, 3}], ids=str)
def test_a_database_that_fails_to_listen_does_not_keep_the_storage_from_connecting_again(
        fake, storage, told, told_too_late):
    """C17: whichever calls fail; what was not told is told after the reconnect, and the cache has it."""
    db = Listener(storage, invalidate=told, invalidateCache=told_too_late)
    for _ in range(3):
        commit_elsewhere(fake)
        inside.manager(storage).link(20)
        fake.wait(lambda: fake.connections)
        catch_up(storage, fake.tid)
        assert db.told[-1] == (fake.tid, [OID])
        assert storage.loadBefore(OID, maxtid)[:2] == (b'%d' % fake.tid[7], fake.tid)
    assert len(fake.registered) == 1 + len(told)
    storage.ping()


def test_a_database_that_could_not_be_told_at_once_is_told_before_the_next_connection_is_used(
        fake, storage, caplog):
    """C17."""
    db = Listener(storage, invalidate={1}, invalidateCache={1})
    commit_elsewhere(fake)
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    assert (db.calls['invalidateCache'], db.cache_dropped) == (2, 1)
    assert caplog.text.count('the database could not be told to look at all of its objects again') == 1
    assert "no 'db', at call 1 of invalidateCache" in caplog.text


def test_a_database_that_never_listens_does_not_fill_the_log(fake, storage, caplog):
    """C17, N15."""
    Listener(storage, invalidate=ALL, invalidateCache=ALL)
    commit_elsewhere(fake)
    fake.wait(lambda: len(fake.registered) == 5)
    assert caplog.text.count('the database could not be told') == 1
    assert caplog.text.count('cannot be used: AttributeError: no \'db\', at call 2 of invalidate') == 1
    assert caplog.text.count('cannot be used') == 1
    with pytest.raises(ClientDisconnected, match="AttributeError: no 'db', at call .* of invalidate"):
        inside.manager(storage).link(0)


@pytest.mark.parametrize('failures', [{1}, {1, 2, 3}, {2}], ids=str)
def test_a_database_that_fails_while_a_cache_starts_over(fake, storage, failures):
    """C17: the server does not remember so far back.  Nothing is used before the DB knows."""
    db = Listener(storage, invalidateCache=failures)
    fake.answers['getInvalidations'] = lambda connection, tid: None
    for _ in range(2):
        commit_while_it_is_away(fake)
        catch_up(storage, fake.tid)
    assert db.cache_dropped >= 2
    assert storage.loadBefore(OID, maxtid)[:2] == (b'%d' % fake.tid[7], fake.tid)


def test_a_cache_that_is_dropped_again_and_again_is_told_once(fake, storage, caplog):
    """S16: others are there at DEBUG."""
    fake.answers['getInvalidations'] = lambda connection, tid: None
    with caplog.at_level(logging.DEBUG):
        for _ in range(4):
            commit_while_it_is_away(fake)
            catch_up(storage, fake.tid)
    levels = [record.levelno for record in caplog.records if 'too old to be verified' in record.getMessage()]
    assert levels == [logging.CRITICAL, *[logging.DEBUG] * 3]


def test_a_subscriber_of_stale_cache_that_fails_is_logged_and_changes_nothing(
        fake, storage, monkeypatch, caplog):
    """C17: an event is for information."""
    def notify(event):
        raise ValueError('no good')

    db = Listener(storage)
    fake.answers['getInvalidations'] = lambda connection, tid: None
    monkeypatch.setattr(sys.modules['zeo_clone.client.verification'], 'notify', notify)
    commit_while_it_is_away(fake)
    storage.ping()
    assert storage.lastTransaction() == fake.tid and db.cache_dropped
    assert 'a subscriber of StaleCache failed' in caplog.text


@pytest.mark.parametrize('failures', [(), {1}, {1, 2}], ids=str)
def test_a_callback_of_finish_that_fails(fake, storage, failures):
    """C17, C24: the transaction is committed, so the committer gets its tid; the DB looks at all anew."""
    db = Listener(storage, invalidateCache=failures)
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.store(OID, z64, b'new', '', transaction)
    storage.tpc_vote(transaction)

    def callback(tid):
        raise ValueError('no good')

    assert storage.tpc_finish(transaction, callback) == p64(2)
    storage.ping()
    assert storage.lastTransaction() == fake.tid == p64(2)
    assert db.cache_dropped


@pytest.mark.parametrize('method', ['invalidate', 'setLastTid', 'clear', 'getLastTid', '__len__'])
@pytest.mark.parametrize('call', [1, 2, 3])
@pytest.mark.parametrize('remembered', [True, False], ids=['caught up', 'started over'])
def test_a_cache_that_fails_while_it_is_brought_up_to_date(
        fake, storage, method, call, remembered, monkeypatch):
    """C17, K11: at whichever call: the search goes on, and then the cache is right."""
    Listener(storage)
    cache = inside.cache(storage)
    real, calls = getattr(type(cache), method), []

    def failing(self, *args):
        if self is cache and REAL.get_ident() == inside.manager(storage)._loop._thread_ident:
            calls.append(args)
            if len(calls) == call:
                raise OSError(5, 'Input/output error')
        return real(self, *args)

    monkeypatch.setattr(type(cache), method, failing)
    if not remembered:
        fake.answers['getInvalidations'] = lambda connection, tid: None
    for _ in range(2):
        commit_while_it_is_away(fake)
        catch_up(storage, fake.tid)
        assert storage.loadBefore(OID, maxtid)[:2] == (b'%d' % fake.tid[7], fake.tid)


def test_a_callback_that_would_wait_for_a_connection_in_the_thread_that_finds_one_is_told_so(fake, opened):
    """C16: and nobody else waits for it; here for a storage that it has opened."""
    class Opens(Wrapper):
        def invalidate(self, tid, oids):
            try:
                opened(wait_timeout=1000)
            except ClientDisconnected as error:
                errors.append(str(error))
            super().invalidate(tid, oids)
            called.set()

    errors, called = [], threading.Event()
    storage = opened()
    db = Opens(storage)
    fake.client.notice('invalidateTransaction', fake.next_tid(), [OID])
    assert called.wait(20)
    assert db.told == [(fake.tid, [OID])]
    error, = errors
    assert 'a callback in the I/O thread cannot wait for one' in error


@pytest.mark.parametrize('end', [SystemExit, KeyboardInterrupt])
def test_a_callback_that_wants_to_end_the_thread_does_not_end_that_of_all_storages(
        fake, storage, opened, caplog, end):
    """C16: the connection on which it was called is lost, and found again; others notice nothing."""
    class Quits(Wrapper):
        def invalidate(self, tid, oids):
            if len(fake.registered) == 2:
                raise end('no good')
            super().invalidate(tid, oids)

    other = opened()
    db = Quits(storage)
    fake.registered[0].notice('invalidateTransaction', fake.next_tid(), [OID])
    fake.wait(lambda: len(fake.registered) == 3)
    catch_up(storage, fake.tid)
    assert db.told == [(fake.tid, [OID])]
    assert other.is_connected()
    assert 'the application wanted to end the I/O thread, which goes on' in caplog.text
