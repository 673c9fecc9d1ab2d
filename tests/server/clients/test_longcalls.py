"""Long calls of one client: one at a time, and none while its answers are not read."""
from __future__ import annotations

import pytest
from ZODB.MappingStorage import MappingStorage

from zeo_clone.server.clients import longcalls
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import TooBusy


class Later:
    """Worker threads that do nothing until they are told to."""

    def __init__(self):
        self.running = []

    def run(self, lane, function, long=False):
        assert long
        self.running.append((lane, function, Deferred()))
        return self.running[-1][2]

    def finish(self):
        _, function, deferred = self.running.pop(0)
        deferred.succeed(function())


@pytest.fixture
def storage():
    return MappingStorage()


@pytest.fixture
def threads(desk):
    desk.workers = Later()
    return desk.workers


def ask(client, ran, name):
    deferred = client.member.long_calls.run(lambda: ran.append(name) or name)
    deferred.when_settled(lambda value, error: ran.append((value, error)))
    return deferred


def test_one_at_a_time_is_handed_to_the_threads(client, threads):
    """S14."""
    ran = []
    for name in 'abc':
        ask(client, ran, name)
    assert len(threads.running) == 1
    for _ in range(3):
        threads.finish()
    assert ran == ['a', ('a', None), 'b', ('b', None), 'c', ('c', None)]


def test_clients_have_queues_of_their_own(client, desk, threads):
    """S14: their lanes take turns in the pool."""
    ran, other = [], desk.connect()
    for one in (client, other, client):
        ask(one, ran, 'x')
    assert len({lane for lane, _, _ in threads.running}) == 2


def test_no_answer_is_made_while_much_output_waits(client, threads):
    """S12, S14: a client that does not read has no answers waiting beyond that."""
    ran = []
    client.channel.queued = longcalls.LOW_WATER + 1
    ask(client, ran, 'a')
    assert not threads.running
    assert client.channel.room_wanted
    client.channel.queued = 0
    client.session.handle_room()
    threads.finish()
    assert ran == ['a', ('a', None)]


def test_too_many_are_refused(client, threads, monkeypatch):
    """S5b."""
    monkeypatch.setattr(longcalls, 'MAX_LANE', 2)
    ran = []
    for name in 'abc':
        ask(client, ran, name)
    with pytest.raises(TooBusy, match='2 long calls'):
        ask(client, ran, 'd')


def test_nothing_is_begun_for_a_client_that_has_gone(client, threads):
    """C16: and what runs can see that nobody waits for it."""
    ran = []
    for name in 'ab':
        ask(client, ran, name)
    calls = client.member.long_calls
    client.hang_up()
    assert calls.gone
    threads.finish()
    assert ran == ['a']
    assert not threads.running


def test_an_error_is_the_result(client, threads):
    deferred = client.member.long_calls.run(lambda: 1)
    threads.running[0][2].fail(ValueError('no'))
    assert isinstance(deferred.error, ValueError)
