"""Connections that have not registered: who has to go, and when."""
from __future__ import annotations

import logging

import pytest

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.server.clients.strangers import SILENT_S, TALKING_S, Strangers


class Guest:
    handshake_hint = ': is it there at all?'

    def __init__(self, strangers, has_spoken=False):
        self.has_spoken = has_spoken
        self.ended = []
        self._strangers = strangers
        strangers.add(self)

    def disconnect(self, reason, level=logging.WARNING):
        self.ended.append((reason, level))
        self._strangers.discard(self)


@pytest.fixture
def loop():
    return HandLoop(ClockRuntime())


@pytest.fixture
def strangers(loop):
    return Strangers(loop, 10)


def test_a_stranger_has_its_time_and_no_more(loop, strangers):
    """N6."""
    first = Guest(strangers)
    loop.advance(6)
    second = Guest(strangers)
    loop.advance(3.9)
    assert not first.ended
    loop.advance(0.1)
    assert first.ended == [('it did not register within 10 s: is it there at all?', logging.WARNING)]
    assert not second.ended
    loop.advance(6)
    assert second.ended
    assert len(strangers) == 0


def test_there_is_one_timer_however_many_come_and_go(loop, strangers):
    """S12: a storm of connections leaves nothing behind."""
    for _ in range(1000):
        strangers.discard(Guest(strangers))
    Guest(strangers)
    assert len(loop.timers) == 1


def test_nobody_is_looked_after_when_nobody_is_there(loop, strangers):
    strangers.discard(Guest(strangers))
    loop.advance(10)
    assert len(loop.timers) == 0


def test_the_oldest_silent_one_makes_room(loop, strangers):
    """S13."""
    talking, first, second = Guest(strangers, True), Guest(strangers), Guest(strangers)
    loop.advance(SILENT_S)
    assert strangers.make_room()
    assert first.ended == [('it makes room for others: it has not registered yet', logging.DEBUG)]
    assert not talking.ended and not second.ended


def test_who_talks_has_longer(loop, strangers):
    """S13: many clients that come back at once do not push each other out."""
    talking = Guest(strangers, True)
    loop.advance(TALKING_S - 0.01)
    assert not strangers.make_room()
    loop.advance(0.01)
    assert strangers.make_room()
    assert talking.ended


def test_who_has_just_come_may_stay(strangers):
    """S13."""
    Guest(strangers)
    assert not strangers.make_room()


def test_nobody_there_makes_no_room(strangers):
    assert not strangers.make_room()
