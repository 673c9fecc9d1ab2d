"""Served storages: histories, and changes that come from elsewhere."""
from __future__ import annotations

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.server.desk import Desk

OIDS = [p64(number) for number in range(10)]


def notices(client):
    return [(name, args) for name, args in client.take_notices() if name == 'invalidateTransaction']


class Upstream(MappingStorage):
    """A storage that is a client itself: others change it."""

    def registerDB(self, db):
        self.db = db

    def change(self, tid, oids):
        self._ltid = tid
        self.db.invalidate(tid, oids)


def test_storages_have_histories_of_their_own():
    """C7."""
    desk = Desk({'1': MappingStorage(), '2': MappingStorage()})
    one, two = desk.connect('1'), desk.connect('2')
    tids = {}
    for number in range(4):
        tids['1', number] = one.commit(OIDS[number])
        tids['2', number] = two.commit(OIDS[number + 4])
        one.hang_up()
        one = desk.connect('1')
        assert one.call('getInvalidations', z64) == (tids['1', number], OIDS[number::-1])
    assert two.call('getInvalidations', tids['2', 1])[1] == OIDS[7:5:-1]
    assert notices(two) == []


def test_a_history_has_a_size():
    """C7."""
    desk = Desk(history_size=2)
    client = desk.connect()
    tids = [client.commit(oid) for oid in OIDS[:4]]
    assert client.call('getInvalidations', tids[0]) is None
    assert client.call('getInvalidations', tids[1]) == (tids[3], [OIDS[3], OIDS[2]])
    assert client.call('getInvalidations', p64(1 << 62)) is None


def test_after_a_restart_the_history_comes_from_the_storage(tmp_path):
    path = str(tmp_path / 'Data.fs')
    storage = FileStorage(path)
    client = Desk({'1': storage}).connect()
    tids = [client.commit(oid) for oid in OIDS[:4]]
    storage.close()
    storage = FileStorage(path)
    client = Desk({'1': storage}, history_size=2).connect()
    assert client.call('getInvalidations', tids[3]) == (tids[3], [])
    assert client.call('getInvalidations', tids[2]) == (tids[3], [OIDS[3]])
    assert client.call('getInvalidations', tids[1]) is None
    storage.close()


@pytest.fixture
def upstream():
    return Upstream()


def test_what_others_change_is_passed_on(upstream):
    desk = Desk({'1': upstream})
    client = desk.connect()
    upstream.change(p64(50), OIDS[:2])
    desk.loop.turn()
    assert notices(client) == [('invalidateTransaction', (p64(50), OIDS[:2]))]
    assert client.call('getInvalidations', z64) == (p64(50), OIDS[:2])


def test_a_change_from_elsewhere_comes_before_a_later_own_commit(upstream, monkeypatch):
    """Order: the change was handed in, but the loop has not had its turn."""
    desk = Desk({'1': upstream})
    committer, other = desk.connect(), desk.connect()
    monkeypatch.setattr(desk.loop, 'turn', lambda: None)
    upstream.change(p64(50), [OIDS[0]])
    tid = committer.commit(OIDS[1])
    assert notices(other) == [('invalidateTransaction', (p64(50), [OIDS[0]])),
                              ('invalidateTransaction', (tid, [OIDS[1]]))]
    assert notices(committer) == [('invalidateTransaction', (p64(50), [OIDS[0]]))]


def test_a_later_change_from_elsewhere_comes_after_an_own_commit(upstream, monkeypatch):
    """Order: the storage heard of it in its own thread before its tpc_finish came back to ours."""
    desk = Desk({'1': upstream})
    committer, other = desk.connect(), desk.connect()
    finish, late = upstream.tpc_finish, p64(1 << 62)

    def finish_and_hear(transaction):
        tid = finish(transaction)
        upstream.change(late, [OIDS[5]])
        return tid

    monkeypatch.setattr(upstream, 'tpc_finish', finish_and_hear)
    tid = committer.commit(OIDS[1])
    assert notices(other) == [('invalidateTransaction', (tid, [OIDS[1]])),
                              ('invalidateTransaction', (late, [OIDS[5]]))]
    assert notices(committer) == [('invalidateTransaction', (late, [OIDS[5]]))]
    assert other.call('getInvalidations', tid) == (late, [OIDS[5]])


@pytest.mark.parametrize('ask', [
    lambda desk: desk.connect().call('getInvalidations', z64)[0],
    lambda desk: desk.connect().call('lastTransaction')])
def test_nobody_is_told_of_a_tid_before_its_invalidation_is_known(upstream, monkeypatch, ask):
    desk = Desk({'1': upstream})
    monkeypatch.setattr(desk.loop, 'turn', lambda: None)
    upstream.change(p64(50), [OIDS[0]])
    assert ask(desk) == p64(50)
    assert desk.connect().call('getInvalidations', z64) == (p64(50), [OIDS[0]])


def test_when_anything_may_have_changed_clients_have_to_verify(upstream):
    desk = Desk({'1': upstream})
    client = desk.connect()
    before = client.commit(OIDS[0])
    upstream._ltid = p64(1 << 62)
    upstream.db.invalidateCache()
    desk.loop.turn()
    assert 'caches must be verified' in client.lost
    assert desk.connect().call('getInvalidations', before) is None


def test_a_tid_without_its_objects_is_told_to_nobody(upstream):
    """C1, in front of another server: whose cache is too old there starts over, in a thread of its own.

    What it tells of that, in this order, may be seen by a commit of ours before the loop's turn comes.
    """
    desk = Desk({'1': upstream})
    listener, committer = desk.connect(), desk.connect()
    late = p64(1 << 62)
    committer.begin()
    committer.store(OIDS[0])
    committer.call('vote', 7)
    upstream.db.invalidateCache()
    upstream.change(late, [])
    committer.start('tpc_finish', 7)
    assert ('invalidateTransaction', (late, [])) not in notices(listener)
    assert 'caches must be verified' in listener.lost


def test_what_comes_while_all_is_started_over_is_told(upstream, monkeypatch):
    """C1, in front of another server: the next change, heard after the storage has said where it is."""
    desk = Desk({'1': upstream})
    desk.connect()
    late, later = p64(1 << 61), p64(1 << 62)
    upstream._ltid = late

    def where():
        monkeypatch.setattr(upstream, 'lastTransaction', lambda: later)
        upstream.change(later, [OIDS[0]])
        return late

    monkeypatch.setattr(upstream, 'lastTransaction', where)
    upstream.db.invalidateCache()
    upstream.db.invalidate(late, [])
    desk.loop.turn()
    assert desk.connect().call('getInvalidations', late) == (later, [OIDS[0]])


def test_who_loses_track_again_while_all_is_started_over_is_asked_again(upstream, monkeypatch):
    desk = Desk({'1': upstream})
    before = desk.connect().commit(OIDS[0])
    late, later = p64(1 << 61), p64(1 << 62)

    def where():
        monkeypatch.setattr(upstream, 'lastTransaction', lambda: later)
        upstream.db.invalidateCache()
        upstream.change(later, [])
        return late

    monkeypatch.setattr(upstream, 'lastTransaction', where)
    upstream.db.invalidateCache()
    desk.loop.turn()
    other = desk.connect()
    assert other.call('getInvalidations', before) is None
    assert other.call('getInvalidations', late) is None
    assert other.call('getInvalidations', later) == (later, [])


def test_who_is_sent_away_as_his_commit_begins_leaves_the_storage_alone(upstream):
    """L9, in front of another server: to begin is to look for what came from elsewhere, and that may be word
    that anything has changed, for which everybody is sent away, the committer too."""
    desk = Desk({'1': upstream})
    committer = desk.connect()
    committer.begin()
    committer.store(OIDS[0])
    upstream.db.invalidateCache()
    upstream.change(p64(1 << 62), [])
    committer.start('vote', 7)
    assert 'caches must be verified' in committer.lost
    assert upstream.tpc_transaction() is None
    assert desk.connect().commit(OIDS[1])


def test_the_wrapper_is_what_a_storage_expects_of_a_database(tmp_path):
    """`registerDB` of a storage wrapper, hexstorage for instance, uses these."""
    from ZODB.tests.hexstorage import ServerHexStorage
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    client = Desk({'1': ServerHexStorage(storage)}).connect()
    assert client.commit(OIDS[0])
    storage.close()
