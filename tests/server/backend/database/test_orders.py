"""Loads, commits and what is told of them, in thousands of orders (C1, X1), against a database double."""
from __future__ import annotations

import random
import re
from functools import partial

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64, u64

from tests.server.backend.database.double import Double, Loop
from zeo_clone.server.backend.database import feed
from zeo_clone.server.backend.database.feed import Feed
from zeo_clone.server.backend.database.reader import DatabaseAway, Reader
from zeo_clone.server.backend.database.records import Records
from zeo_clone.server.backend.flights import Flights
from zeo_clone.server.deferred import Deferred

OIDS = [1, 2, 3]
STEPS = 60


class World:
    """A server's reader and feed, and what its clients were told."""

    def __init__(self, cache_size=10_000, keeps_history=True):
        self.loop, self.database = Loop(), Double(keeps_history)
        self.told = []  # tids
        self.wrote = {}  # oids, by tid
        self.resets = []  # identities
        self.records, self.flights = Records(cache_size), Flights()
        self.reader = Reader(self.loop, 'x', self.database, self.records, self.flights, 2, 10.0)
        self.feed = Feed(self.loop, 'x', self.database, p64(0), 1.0, 10.0, self._tell, self._started_anew)
        self.owns = []
        self.feed.open()
        self.reader.open()
        self.answers = 0

    def _tell(self, tid, oids, own):
        assert not self.told or u64(tid) > self.told[-1], 'in order, once'
        self.records.changed(tid, oids)
        self.flights.changed(tid, oids)
        self.told.append(u64(tid))
        self.wrote[u64(tid)] = oids
        if own is not None:
            self.owns.append((tid, own))

    def _started_anew(self, identity):
        self.resets.append(identity)
        self.reader.read_all_again()

    @property
    def lines(self):
        return [self.feed._line, *(one.line for one in self.reader._lines)]

    def deliver_all(self):
        for _ in range(20):
            for line in self.lines:
                self.database.deliver(line)

    def commit(self, *oids):
        tid = max(self.database.transactions, default=0) + 2
        self.database.commit(tid, {oid: b'%d in %d' % (oid, tid) for oid in oids})
        return tid

    def load(self, oid, before):
        known = set(self.told)
        answer = self.reader.loadBefore(p64(oid), before)
        if isinstance(answer, Deferred):
            answer.when_settled(partial(self.check, oid, before, known))
        else:
            self.check(oid, before, known, answer, None)

    def check(self, oid, before, known, revision, error):
        """At the moment of sending: is the answer true, and does it say "current" of what is?"""
        self.answers += 1
        tids = [tid for tid, _ in self.database.revisions(oid)]
        earlier = [tid for tid in tids if tid < u64(before) and tid in known]
        if error is not None or revision is None:
            assert error is None or isinstance(error, POSKeyError)
            assert not earlier
            return
        data, serial, end = revision
        number = u64(serial)
        assert data == b'%d in %d' % (oid, number) and serial < before
        assert not earlier or number >= earlier[-1]
        following = next((tid for tid in tids if tid > number), None)
        if end is None:
            assert following is None or following not in self.told
        else:
            assert u64(end) == following


def bounded_world(monkeypatch, keeps_history):
    """One whose answers have four rows, and sixteen of several transactions."""
    monkeypatch.setattr(feed, 'MOST_AT_ONCE', 4)
    monkeypatch.setattr(feed, 'MOST_TOGETHER', 16)
    world = World(keeps_history=keeps_history)
    world.feed._limit = 4
    world.deliver_all()
    return world


@pytest.mark.parametrize('cache_size', [0, 1_000, 100_000])
@pytest.mark.parametrize('part', range(4))
def test_no_answer_calls_current_what_was_told_to_have_ended(cache_size, part):
    """C1: in whatever order loads, answers and what is new come."""
    for seed in range(250 * part, 250 * (part + 1)):
        chance, world = random.Random(f'{cache_size} {seed}'), World(cache_size)
        for _ in range(STEPS):
            step = chance.choice(['commit', 'load', 'load', 'current', 'deliver', 'deliver', 'notice'])
            if step == 'commit':
                world.commit(*chance.sample(OIDS, chance.randint(1, 2)))
            elif step == 'load':
                world.load(chance.choice(OIDS), p64(max(world.told, default=0) + 1))
            elif step == 'current':
                world.load(chance.choice(OIDS), maxtid)
            elif step == 'deliver':
                world.database.deliver(chance.choice(world.lines))
            else:
                world.feed.notified([chance.choice(['', *map(str, world.database.transactions)])])
        world.feed.notified([str(max(world.database.transactions, default=0))])
        world.deliver_all()
        assert world.told == sorted(world.database.transactions) and not world.resets
        assert not world.reader.waiting and world.answers


def test_an_answer_that_two_transactions_overtook_ends_with_the_first():
    """C1."""
    world = World()
    first = world.commit(1)
    world.feed.look()
    world.deliver_all()
    answer = world.reader.loadBefore(p64(1), p64(first + 1))
    second, _ = world.commit(1), world.commit(1)
    world.feed.look()
    for _ in range(3):
        world.database.deliver(world.feed._line)
    assert not answer.settled and len(world.told) == 3
    world.deliver_all()
    assert answer.value == (b'1 in %d' % first, p64(first), p64(second))


def test_several_answers_are_as_of_one_moment():
    """C1: what changes after the first of them has come is noted on it."""
    world = World()
    first = world.commit(1)
    world.feed.look()
    world.deliver_all()
    batch = world.flights.open([p64(1)])
    answer = world.reader.loadBefore(p64(1), maxtid)
    world.deliver_all()
    second = world.commit(1)
    world.feed.look()
    world.deliver_all()
    assert batch.as_of_now(p64(1), answer.value) == (b'1 in %d' % first, p64(first), p64(second))
    world.flights.close(batch)


def test_our_own_transaction_is_told_at_its_place():
    """X1: between those of others, whenever its COMMIT returns."""
    world = World()
    world.deliver_all()
    world.commit(1)
    ours = world.commit(2)
    world.feed.expect(p64(ours), 'ours')
    world.commit(3)
    world.feed.look()
    world.deliver_all()
    assert world.told == [2, 4, 6] and world.owns == [(p64(ours), 'ours')]


@pytest.mark.parametrize('first', ['the database', 'the thread'])
def test_a_commit_of_ours_is_one_question_whoever_says_it_first(first):
    """X1: and none, if it has been told."""
    world = World()
    last = world.commit(1)
    world.feed.look()
    world.deliver_all()
    asked, tid = world.database.asked_for_news, world.commit(2)
    says = [lambda: world.feed.notified([str(tid)]), lambda: world.feed.look_for(p64(tid))]
    for say in says if first == 'the database' else says[::-1]:
        say()
    world.deliver_all()
    world.feed.look_for(p64(tid))
    assert world.told == [last, tid] and world.database.asked_for_news == asked + 1
    later = world.commit(1)
    world.feed.notified(['9' * 40])
    world.deliver_all()
    assert world.told[-1] == later


def test_who_wants_to_be_sure_waits_for_a_question_that_begins_after_that():
    """C20."""
    world = World()
    world.deliver_all()
    world.feed.look()  # is asked, before the transaction
    tid = world.commit(1)
    fresh = world.feed.when_fresh()
    world.database.deliver(world.feed._line)
    assert not fresh.settled and world.told == []
    world.database.deliver(world.feed._line)
    assert fresh.settled and world.told == [tid]


@pytest.mark.parametrize('keeps_history', [True, False])
def test_a_transaction_with_more_rows_than_an_answer_is_told_whole(keeps_history, monkeypatch):
    """C3: by itself whatever it has written, and with history beside others."""
    world = bounded_world(monkeypatch, keeps_history)
    tids = [world.commit(*range(1, 40))]
    if keeps_history:
        tids.append(world.commit(1))
    world.feed.look()
    world.deliver_all()
    assert world.told == tids and not world.resets
    assert [len(world.wrote[tid]) for tid in tids] == [39, 1][:len(tids)]


@pytest.mark.parametrize('keeps_history', [True, False])
def test_of_too_many_transactions_that_are_not_whole_all_are_sent_away(keeps_history, monkeypatch, caplog):
    """C1, C3, S11: without history, or packed, all are needed for the first one to be told."""
    world = bounded_world(monkeypatch, keeps_history)
    first = world.commit(1)
    world.feed.look()
    world.deliver_all()
    for _ in range(10):
        last = world.commit(1, 2, 3)
    world.database.packed = set(world.database.transactions)
    world.feed.expect(p64(last), 'ours')
    fresh = world.feed.when_fresh()
    world.deliver_all()
    assert world.told == [first] and world.resets == [None] and fresh.settled
    record, = caplog.records
    assert record.levelname == 'WARNING' and re.search(
        f"'x': too much was committed after transaction {p64(first).hex()} to be told one by one, and the "
        f'database is at {p64(last).hex()} now: all clients are sent away', record.getMessage())
    assert world.database.limits[-4:] == [4, 8, 16, 4] and not world.feed._own
    next_one = world.commit(2)
    world.feed.look()
    world.deliver_all()
    assert world.told == [first, next_one]


def test_what_is_asked_while_the_database_is_away_waits_then_fails():
    """X3: with an error that can be tried again."""
    world = World()
    tid = world.commit(1)
    world.deliver_all()
    world.database.away = True
    waiting = world.reader.loadBefore(p64(1), maxtid)
    fresh = world.feed.when_fresh()
    world.loop.advance(5)
    assert not waiting.settled and world.feed.away_since is not None
    world.database.away = False
    world.loop.advance(2)
    world.deliver_all()
    assert waiting.value == (b'1 in %d' % tid, p64(tid), None) and fresh.settled
    assert world.feed.away_since is None
    world.database.away = True
    waiting, fresh = world.reader.loadBefore(p64(2), maxtid), world.feed.when_fresh()
    world.loop.advance(5)
    world.loop.advance(6)
    world.loop.advance(1)
    assert isinstance(waiting.error, DatabaseAway) and isinstance(fresh.error, DatabaseAway)
    connecting = world.feed.when_fresh()
    world.loop.advance(4)
    assert not connecting.settled
    world.loop.advance(2)  # before a client would say itself that the server is too slow
    assert re.search(r'the database of the server is away; .* \(away\)', str(connecting.error))


def test_a_system_that_has_no_thread_left_is_asked_again():
    """X3: connections are made in threads."""
    world = World()
    world.deliver_all()
    world.database.away = world.loop.runtime.none = True
    waiting = world.reader.loadBefore(p64(1), maxtid)
    world.loop.advance(2)
    world.database.away = world.loop.runtime.none = False
    world.loop.advance(2)
    world.deliver_all()
    assert isinstance(waiting.error, POSKeyError) and world.feed.away_since is None


def test_a_database_that_has_lost_what_was_told_is_noticed():
    """X3."""
    world = World()
    world.commit(1)
    last = world.commit(2)
    world.deliver_all()
    world.feed.look()
    world.deliver_all()
    assert world.feed.last == p64(last)
    del world.database.transactions[last]
    world.feed.look()
    world.deliver_all()
    assert world.resets == [None] and world.feed.last == p64(2)


@pytest.mark.parametrize('own', [False, True])
@pytest.mark.parametrize('most', [1, 20_000])
@pytest.mark.parametrize('is_packed', [False, True])
def test_without_history_or_packed_all_that_several_wrote_is_told_with_the_first(
        is_packed, own, most, monkeypatch):
    """C1, X1: what a later one has written again shows there alone, and clients are at each for a moment."""
    monkeypatch.setattr(feed, 'MOST_AT_ONCE', most)
    world = World(keeps_history=is_packed)
    world.feed._limit = most
    world.commit(1, 2, 3)
    world.feed.look()
    world.deliver_all()
    first, second, third = world.commit(3), world.commit(1, 2), world.commit(1)
    del world.database.transactions[second][1]
    if is_packed:
        world.database.packed = {first, second}
    if own:
        world.feed.expect(p64(first), object())
    world.feed.look()
    world.deliver_all()
    assert world.told[-3:] == [first, second, third]
    everything = [p64(1), p64(2), p64(3)]
    assert sorted(world.wrote[first]) == everything
    assert sorted(world.wrote[second]) == (everything if own else [p64(2)])
    assert world.wrote[third] == [p64(1)]


@pytest.mark.parametrize('logged', [True, False])
def test_a_database_without_history_that_has_lost_what_was_told_and_been_written_to_is_noticed(logged):
    """X3, C22: of a transaction that a server committed something stays; of another one nothing need."""
    world = World(keeps_history=False)
    world.commit(1)
    last = world.commit(2)
    world.database.unlogged = set() if logged else {last}
    world.deliver_all()
    world.feed.look()
    world.deliver_all()
    assert world.feed.last == p64(last)
    del world.database.transactions[last]
    world.database.commit(last + 1, {1: b'later'})
    world.database.identity = 'another'
    world.feed.look()
    world.deliver_all()
    assert world.resets == (['another'] if logged else []) and world.feed.last == p64(last + 1)


def test_what_was_read_before_a_database_started_anew_is_read_again():
    """C1: its answer may be on its way still."""
    world = World()
    tid = world.commit(1)
    lost = world.commit(1)
    world.feed.look()
    world.deliver_all()
    answer = world.reader.loadBefore(p64(1), maxtid)
    del world.database.transactions[lost]
    world.feed.look()
    for _ in range(2):
        world.database.deliver(world.feed._line)
    assert world.resets
    world.deliver_all()
    assert not answer.settled
    world.loop.advance(1)
    world.deliver_all()
    assert answer.value == (b'1 in %d' % tid, p64(tid), None) and world.records.get(p64(1))[1] == p64(tid)


def test_a_transaction_is_asked_for_whatever_comes_back_late():
    """X1: word of an earlier one, from the thread that has committed it, does not hide the later one."""
    world = World()
    world.deliver_all()
    first = world.commit(1)
    world.feed.look()
    second = world.commit(2)
    world.feed.notified([str(second)])
    world.feed.look_for(p64(first))
    world.deliver_all()
    assert world.told == [first, second]


def test_a_database_that_refuses_to_tell_is_asked_again_now_and_then(caplog):
    """X3, S16: and goes on when it tells again."""
    world = World()
    world.deliver_all()
    world.commit(1)
    world.database.refuses = True
    world.feed.look()
    asked = world.database.asked_for_news
    world.deliver_all()
    world.loop.advance(1)
    world.deliver_all()
    assert world.database.asked_for_news == asked + 1
    assert world.feed.trouble == 'refused' and world.feed.away_since is not None
    assert [one.getMessage() for one in caplog.records] == ["storage 'x': the database is away: refused"]
    world.database.refuses = False
    world.loop.advance(1)
    world.deliver_all()
    assert world.told == [2] and world.feed.away_since is None


def test_records_are_bounded_by_bytes_and_old_ones_are_kept_for_resolution():
    """K6: and one that is too large is not kept."""
    records = Records(8_000)
    for number in range(100):
        records.put(p64(number), b'x' * 300, p64(1))
        assert records.used <= 7_000
    assert records.get(p64(99)) == (b'x' * 300, p64(1)) and records.get(p64(0)) is None
    records.put(p64(5), b'x' * 8_000, p64(1))
    assert records.get(p64(5)) is None
    records.changed(p64(2), [p64(99)])
    assert records.get(p64(99)) is None and records.old(p64(99), p64(1)) == b'x' * 300
    records.changed(p64(2), [p64(98)])
    records.put(p64(98), b'new', p64(2))
    records.changed(p64(2), [p64(98)])  # that is what it is of
    assert records.get(p64(98)) == (b'new', p64(2))
