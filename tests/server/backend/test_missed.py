"""`missed`: clients that were away for longer than the history remembers."""
from __future__ import annotations

import time

import pytest
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, u64

from tests.server.desk import Desk
from zeo_clone.server.backend import backend, missed
from zeo_clone.server.backend.missed import changed_between

DAY = 86400.0


def desk_with_past(**options):
    """A server that remembers two of its five transactions; the tids of all of them."""
    desk = Desk({'1': MappingStorage()}, history_size=2, **options)
    desk.runtime.now = time.time()
    client = desk.connect()
    tids = [client.commit(p64(number), p64(100 + number)) for number in range(1, 6)]
    return desk, client, tids


def test_without_an_age_the_history_is_all():
    _, client, tids = desk_with_past()
    assert client.call('getInvalidations', tids[0]) is None
    assert client.call('getInvalidations', tids[3]) == (tids[4], [p64(5), p64(105)])


def test_the_storage_itself_is_searched():
    """invalidation-age: everything written after the client's last transaction, once."""
    _, client, tids = desk_with_past(history_age_s=DAY)
    last, oids = client.call('getInvalidations', tids[0])
    assert last == tids[4]
    assert sorted(oids) == sorted(p64(base + n) for n in range(2, 6) for base in (0, 100))


def test_what_is_committed_during_the_search_is_added(monkeypatch):
    desk, client, tids = desk_with_past(history_age_s=DAY)
    other = desk.connect()
    search = missed.changed_between

    def slow(storage, after, until):
        found = search(storage, after, until)
        tids.append(other.commit(p64(77)))
        return found

    monkeypatch.setattr(backend, 'changed_between', slow)
    last, oids = client.call('getInvalidations', tids[0])
    assert last == tids[5]
    assert p64(77) in oids and len(oids) == 9


@pytest.mark.parametrize('tid', [p64(1), b'\0' * 8])
def test_who_was_away_for_too_long_drops_the_cache(tid):
    _, client, _ = desk_with_past(history_age_s=DAY)
    assert client.call('getInvalidations', tid) is None


def test_a_tid_from_the_future_is_not_known():
    _, client, _ = desk_with_past(history_age_s=DAY)
    assert client.call('getInvalidations', b'\x7f' + b'\xff' * 7) is None


def test_too_many_changes_are_not_worth_it(monkeypatch):
    desk, client, tids = desk_with_past(history_age_s=DAY)
    monkeypatch.setattr(missed, 'MAX_OIDS', 3)
    assert changed_between(desk.storages['1'], tids[0], tids[4]) is None
    assert client.call('getInvalidations', tids[0]) is None


def test_a_storage_without_an_iterator_is_not_searched(monkeypatch):
    monkeypatch.delattr(MappingStorage, 'iterator')
    _, client, tids = desk_with_past(history_age_s=DAY)
    assert client.call('getInvalidations', tids[0]) is None


def test_a_transaction_of_another_past_is_not_searched_from():
    """C22: the storage has no transaction with the tid of the client."""
    _, client, tids = desk_with_past(history_age_s=DAY)
    assert client.call('getInvalidations', p64(u64(tids[0]) + 1)) is None
    assert client.call('getInvalidations', tids[0]) is not None
