"""The watch over the holder of a commit lock."""
from __future__ import annotations

import pytest

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.server.watchdog import Watchdog


class Holder:

    def __init__(self):
        self.rung = []

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
    loop.advance(1e6)
    assert holder.rung == []
    assert len(loop.timers) == 0
