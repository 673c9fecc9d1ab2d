from __future__ import annotations

from itertools import pairwise

import pytest

from tests.loop.runtimes import Clock
from zeo_clone.loop.poller import (
    CROWDED_S,
    CROWDED_TIMES,
    LONG_S,
    LONGEST_CROWDED_S,
    MAX_LOOKS,
    MAX_REST,
    SEVERAL_S,
    Eagerness,
)
from zeo_clone.loop.runtime import Runtime


class Ticking(Runtime):
    """A clock that moves by `tick` seconds with each chance that is given to others."""

    def __init__(self, tick=0.001, eager_s=0.01):
        self.monotonic = Clock()
        self.eager_s = eager_s
        self.tick = tick
        self.gave_way = 0

    def give_way(self):
        self.gave_way += 1
        self.monotonic.now += self.tick


class Source:
    """Has something at the `after`-th look of each attempt; None: never."""

    def __init__(self, after=None):
        self.after = after
        self.looks = 0

    def poll(self, *args):
        assert args == (0, 'limit')
        self.looks += 1
        return ['event'] if self.after is not None and self.looks >= self.after else []


def attempt(eagerness, source):
    source.looks = 0
    return eagerness.look(source.poll, 0, 'limit')


def test_what_comes_soon_is_found_without_sleeping():
    runtime, source = Ticking(), Source(after=3)
    eagerness = Eagerness(runtime)
    for _ in range(100):
        assert attempt(eagerness, source) == ['event']
        assert source.looks == 3
    assert runtime.gave_way == 200  # the peer may need this very processor


def test_what_does_not_come_soon_is_waited_for_asleep():
    runtime, source = Ticking(tick=0.001, eager_s=0.0035), Source()
    began = runtime.monotonic.now
    assert not attempt(Eagerness(runtime), source)
    assert source.looks == 4
    assert runtime.monotonic.now - began == pytest.approx(0.004)


def test_attempts_in_vain_become_rare():
    """A thread that waits for something slow spends hardly anything on looking."""
    source, eagerness = Source(), Eagerness(Ticking())
    attempts = []
    for number in range(1000):
        assert not attempt(eagerness, source)
        if source.looks:
            attempts.append(number)
    assert attempts[:6] == [0, 2, 6, 14, 30, 62]
    assert {later - earlier for earlier, later in pairwise(attempts[6:])} == {MAX_REST + 1}


def test_one_success_brings_the_eagerness_back():
    source, eagerness = Source(), Eagerness(Ticking())
    for _ in range(7):
        attempt(eagerness, source)
    source.after = 1
    found = [bool(attempt(eagerness, source)) for _ in range(20)]
    assert found[found.index(True):] == [True] * (20 - found.index(True))


@pytest.mark.parametrize(('away_s', 'pause_s'), [
    (LONG_S * 1.1, CROWDED_S), (SEVERAL_S * 0.9, CROWDED_S), (0.02, 0.02 * CROWDED_TIMES),
    (10, LONGEST_CROWDED_S)])
def test_where_the_processor_was_away_for_long_nobody_looks_for_a_while(away_s, pause_s):
    """A process that just computes would take a whole slice of the scheduler each time, and so would each of
    several; but not because the machine once stood still."""
    runtime, source = Ticking(tick=away_s, eager_s=100), Source(after=2)
    eagerness = Eagerness(runtime)
    assert attempt(eagerness, source) == ['event']
    runtime.monotonic.now += pause_s * 0.9
    assert not attempt(eagerness, source)
    assert source.looks == 0
    runtime.monotonic.now += pause_s * 0.2
    assert attempt(eagerness, source) == ['event']


def test_where_it_comes_back_soon_the_next_wait_looks_too():
    """A peer that shares it answers meanwhile."""
    runtime, source = Ticking(tick=LONG_S * 0.9, eager_s=0.01), Source(after=2)
    eagerness = Eagerness(runtime)
    for _ in range(10):
        assert attempt(eagerness, source) == ['event']


def test_without_eagerness_nobody_looks():
    """A machine with one processor, or a virtual clock."""
    source = Source(after=1)
    assert not attempt(Eagerness(Ticking(eager_s=0.0)), source)
    assert source.looks == 0


def test_a_clock_that_stands_still_does_not_make_it_endless():
    source = Source()
    assert not attempt(Eagerness(Ticking(tick=0)), source)
    assert source.looks == MAX_LOOKS
