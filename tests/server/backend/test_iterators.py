"""Iteration over transactions and records."""
from __future__ import annotations

import os
import threading

import pytest
from ZODB.BaseStorage import TransactionRecord
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64

from tests.server.desk import Desk
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend import iterators
from zeo_clone.server.backend.iterators import Iterators

OIDS = [p64(number) for number in range(10)]


@pytest.fixture
def storage(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    yield storage
    storage.close()


@pytest.fixture
def client(storage):
    desk = Desk({'1': storage})
    yield desk.connect()
    desk.close()


@pytest.fixture
def tids(client):
    return [client.commit(*OIDS[:number]) for number in range(1, 2)] + [
        client.commit(*OIDS[number:number + 2]) for number in (2, 4, 6)]


def all_transactions(client, iterator_id):
    return list(iter(lambda: client.call('iterator_next', iterator_id), None))


def open_files():
    return len(os.listdir('/proc/self/fd'))


def test_transactions_come_in_order_and_then_none(client, tids):
    iterator_id = client.call('iterator_start', None, None)
    assert all_transactions(client, iterator_id) == [(tid, ' ', b'', b'', {}) for tid in tids]
    with pytest.raises(KeyError):
        client.call('iterator_next', iterator_id)


def test_start_and_stop(client, tids):
    iterator_id = client.call('iterator_start', tids[1], tids[2])
    assert [entry[0] for entry in all_transactions(client, iterator_id)] == tids[1:3]


def test_the_records_of_a_transaction(client, tids):
    iterator_id = client.call('iterator_start', tids[1], None)
    tid = client.call('iterator_next', iterator_id)[0]
    records = client.call('iterator_record_start', iterator_id, tid)
    assert [client.call('iterator_record_next', records) for _ in range(3)] == [
        (OIDS[2], tid, b'data', None), (OIDS[3], tid, b'data', None), None]
    assert client.call('iterator_next', iterator_id)[0] == tids[2]


def test_records_are_only_those_of_the_transaction_given_last(client, tids):
    iterator_id = client.call('iterator_start', None, None)
    for _ in range(2):
        client.call('iterator_next', iterator_id)
    with pytest.raises(Exception, match='given last'):
        client.call('iterator_record_start', iterator_id, tids[0])


def batches(client, size, start=None):
    iterator_id = client.call('iterator_start', start, None)
    return list(iter(lambda: client.call('iterator_batch', iterator_id, size), []))


def test_batches_have_everything_in_few_round_trips(client, tids, storage):
    (whole,) = batches(client, 1 << 20)
    assert whole == [((transaction.tid, ' ', b'', b'', {}),
                      [(record.oid, record.tid, record.data, None) for record in transaction])
                     for transaction in storage.iterator()]
    assert [description[0] for description, _ in whole] == tids


def test_a_batch_ends_when_it_has_enough_bytes_but_is_not_empty(client, tids):
    assert [len(batch) for batch in batches(client, 2000)] == [3, 1]
    assert [len(batch) for batch in batches(client, 0)] == [1, 1, 1, 1]


def test_the_end_of_the_batches_ends_the_iterator(client, tids):
    before = open_files()
    batches(client, 1 << 20)
    assert open_files() == before


def test_a_transaction_too_large_for_a_batch_is_asked_for_record_by_record(client, monkeypatch):
    """S5b: no message grows without bound."""
    monkeypatch.setattr(iterators, 'MAX_BATCH', 3000)
    small = client.commit(OIDS[0])
    large = client.commit(*OIDS[1:6], data=b'x' * 1000)
    client.commit(OIDS[6])
    iterator_id = client.call('iterator_start', None, None)
    (first, records), (second, nothing) = client.call('iterator_batch', iterator_id, 1 << 20)
    assert (first[0], len(records), second[0], nothing) == (small, 1, large, None)
    records = client.call('iterator_record_start', iterator_id, large)
    assert len(list(iter(lambda: client.call('iterator_record_next', records), None))) == 5
    assert len(client.call('iterator_batch', iterator_id, 1 << 20)) == 1


def test_clients_are_told_that_there_are_batches(client):
    assert 'iterator_batch' in client.call('get_info')['extensions']


def test_forgotten_iterators_are_ended(client, tids):
    before = open_files()
    ids = [client.call('iterator_start', None, None) for _ in range(3)]
    assert open_files() == before + 3
    client.oneway('iterator_gc', [*ids, 999])
    assert open_files() == before
    with pytest.raises(KeyError):
        client.call('iterator_next', ids[0])


def test_a_session_that_ends_ends_its_iterators(client, tids):
    """C16."""
    before = open_files()
    for _ in range(3):
        client.call('iterator_next', client.call('iterator_start', None, None))
    client.hang_up()
    assert open_files() == before


def test_open_iterators_are_bounded(client, tids, monkeypatch):
    """S5b."""
    monkeypatch.setattr(iterators, 'MAX_OPEN', 3)
    for _ in range(3):
        iterator_id = client.call('iterator_start', None, None)
    tid = client.call('iterator_next', iterator_id)[0]
    for name, args in [('iterator_start', (None, None)), ('iterator_record_start', (iterator_id, tid))]:
        with pytest.raises(Exception, match='3 iterators are open already'):
            client.call(name, *args)


@pytest.mark.parametrize('bad', ['0', None, b'\0', (0,)])
def test_ids_are_numbers(client, bad):
    """S5a."""
    with pytest.raises(ValueError, match='iterator_next: an integer expected'):
        client.call('iterator_next', bad)


@pytest.mark.parametrize('unknown', [1 << 31, -1, 1 << 63, 1 << 200])
def test_an_id_of_any_size_is_known_or_not(client, unknown):
    """L11."""
    with pytest.raises(KeyError):
        client.call('iterator_next', unknown)


def test_ids_of_different_kinds_are_not_mixed_up(client, tids):
    transactions = client.call('iterator_start', None, None)
    with pytest.raises(KeyError):
        client.call('iterator_record_next', transactions)


def test_a_mapping_storage_can_be_iterated_too():
    client = Desk({'1': MappingStorage()}).connect()
    tid = client.commit(OIDS[1])
    iterator_id = client.call('iterator_start', None, None)
    assert all_transactions(client, iterator_id) == [(tid, ' ', b'', b'', {})]


class Endless:
    """An iterator that is busy when its session ends."""

    def __init__(self):
        self.entered, self.go, self.closed = threading.Event(), threading.Event(), False

    def iterator(self, start, stop):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        self.entered.set()
        assert self.go.wait(20)
        return TransactionRecord(p64(1), ' ', b'', b'', {})

    def close(self):
        self.closed = True


def test_the_end_of_a_session_does_not_wait_for_a_busy_iterator():
    """L6: the worker thread ends it as soon as it can."""
    storage, mine = Endless(), Iterators(REAL)
    iterator_id = mine.call(Iterators.start, storage.iterator, None, None)
    thread = threading.Thread(target=mine.call, args=(Iterators.next, iterator_id))
    thread.start()
    assert storage.entered.wait(20)
    mine.close()
    assert not storage.closed
    storage.go.set()
    thread.join(20)
    assert storage.closed and len(mine) == 0


class Interrupted:
    """A runtime whose lock has something happen just before it is let go."""

    def __init__(self):
        self.happens = lambda: None
        self._lock = threading.Lock()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def lock(self):
        return self

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *_):
        self.happens()
        self._lock.release()


def test_a_session_that_ends_just_when_a_call_does_ends_its_iterators():
    """C16: between the call's work and the release of the lock."""
    storage, runtime = Endless(), Interrupted()
    mine = Iterators(runtime)
    runtime.happens = mine.close
    mine.call(Iterators.start, storage.iterator, None, None)
    assert storage.closed and len(mine) == 0


def test_what_may_read_a_long_way_is_told_to_the_worker_threads(client, tids):
    """S14: so that they keep one for what is short."""
    kinds, run = {}, client.desk.workers.run

    def watched(lane, function, long=False):
        kinds.setdefault(name, long)
        return run(lane, function, long)

    client.desk.workers.run = watched
    for name, args in [('iterator_start', (None, None)), ('undo_iterator', (0, 5, None)),
                       ('history_iterator', (OIDS[0], 5)), ('iterator_next', (0,)),
                       ('iterator_batch', (0, 9)), ('entry_batch', (1, 9)),
                       ('undoLog', (0, 5)), ('history', (OIDS[0], 99))]:
        client.call(name, *args)
    assert {name for name, long in kinds.items() if not long} == {'iterator_next', 'iterator_batch'}
    assert len(kinds) == 8
