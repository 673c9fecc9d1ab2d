"""The watch over the holder of a commit lock."""
from __future__ import annotations

import pytest

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.server.commits.lock import Watchdog


class Holder:

    def __init__(self):
        self.rung = []
        self.named = []

    def held_long(self, held_s):
        self.named.append(held_s)

    def timed_out(self, timeout_s):
        self.rung.append(timeout_s)


@pytest.fixture
def loop():
    return HandLoop(ClockRuntime())


def test_a_holder_that_takes_too_long_is_told_once(loop):
    """L1."""
    watchdog, holder = Watchdog(loop, 30), Holder()
    watchdog.start(holder)
    loop.advance(29.9)
    assert holder.rung == []
    loop.advance(0.2)
    loop.advance(100)
    assert holder.rung == [30]


def test_a_holder_that_is_done_is_left_alone(loop):
    watchdog, holder = Watchdog(loop, 30), Holder()
    watchdog.start(holder)
    watchdog.stop()
    loop.advance(100)
    assert holder.rung == []


def test_each_holder_has_its_own_time(loop):
    watchdog, first, second = Watchdog(loop, 30), Holder(), Holder()
    watchdog.start(first)
    loop.advance(20)
    watchdog.stop()
    watchdog.start(second)
    loop.advance(20)
    assert second.rung == []
    loop.advance(11)
    assert (first.rung, second.rung) == ([], [30])


def test_many_commits_make_one_timer(loop):
    watchdog = Watchdog(loop, 30)
    for _ in range(1000):
        watchdog.start(Holder())
        watchdog.stop()
    assert len(loop.timers) == 1


@pytest.mark.parametrize('timeout_s', [None, 0])
def test_it_can_be_switched_off(loop, timeout_s):
    watchdog, holder = Watchdog(loop, timeout_s), Holder()
    watchdog.start(holder)
    for _ in range(10):
        loop.advance(1e6)
    assert holder.rung == []


def test_a_holder_that_takes_its_time_is_named_now_and_then(loop):
    watchdog, holder = Watchdog(loop, 30), Holder()
    watchdog.start(holder)
    for _ in range(100):
        loop.advance(1)
    assert holder.named == [5, 15, 25]
    assert holder.rung == [30]


def test_a_holder_that_is_quick_is_not_named(loop):
    watchdog = Watchdog(loop, None)
    holders = [Holder() for _ in range(100)]
    for holder in holders:
        watchdog.start(holder)
        loop.advance(4.9)
        watchdog.stop()
    loop.advance(100)
    assert not any(holder.named or holder.rung for holder in holders)


def test_a_long_sleep_of_the_machine_is_one_warning(loop):
    watchdog, holder = Watchdog(loop, 0), Holder()
    watchdog.start(holder)
    loop.advance(1e6)
    for _ in range(9):
        loop.advance(1)
    assert holder.named == [1e6]
