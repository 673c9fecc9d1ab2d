"""The account of what waits for all clients of a server: a sum, shares, and messages that count once."""
from __future__ import annotations

import pytest

from zeo_clone.zrpc.channel.memory import Memory, Share


class Bench:
    """A memory of 1,000 bytes; `later` is what it wants to have called."""

    def __init__(self):
        self.later = []
        self.relieved = 0
        self.memory = Memory(1000, self._relieve, self.later.append)

    def _relieve(self):
        self.relieved += 1


@pytest.fixture
def bench():
    return Bench()


def test_the_sum_is_that_of_all_shares(bench):
    """S12."""
    one, other = Share(bench.memory), Share(bench.memory)
    one.add(300)
    other.add(400)
    one.add(-100)
    assert (one.size, other.size, bench.memory.used) == (200, 400, 600)


def test_what_a_connection_had_goes_with_it_and_nothing_of_it_counts_later(bench):
    """S12."""
    share = Share(bench.memory)
    share.add(300)
    share.close()
    share.add(-300)
    share.close()
    assert (share.size, bench.memory.used) == (0, 0)


def test_above_the_limit_somebody_is_told_later_and_once(bench):
    """S12: whoever has just more waiting may be in the middle of a commit."""
    share = Share(bench.memory)
    share.add(1000)
    assert bench.later == []
    share.add(1)
    share.add(1)
    assert len(bench.later) == 1
    assert bench.relieved == 0
    bench.later.pop()()
    assert bench.relieved == 1
    share.add(1)
    assert len(bench.later) == 1, 'it is told again'


def test_when_it_is_below_again_nobody_is_troubled(bench):
    share = Share(bench.memory)
    share.add(2000)
    share.add(-1500)
    bench.later.pop()()
    bench.memory.check()
    assert bench.relieved == 0


def test_at_the_end_of_a_turn_it_is_looked_after_at_once(bench):
    """S12."""
    Share(bench.memory).add(2000)
    bench.memory.check()
    assert bench.relieved == 1


def test_a_message_for_many_counts_once_and_as_long_as_anybody_has_it(bench):
    """S12: a large invalidation that a hundred clients have not read yet is in memory once."""
    message, same = b'x' * 100, b'x' * 50 + b'x' * 50
    for _ in range(3):
        bench.memory.hold(message)
    assert bench.memory.used == 100
    bench.memory.hold(b''.join([same[:50], same[50:]]))
    assert bench.memory.used == 200, 'equal is not the same'
    for left in (200, 200, 100):
        bench.memory.let_go(message)
        assert bench.memory.used == left


def test_it_is_tight_long_before_somebody_has_to_go(bench):
    share = Share(bench.memory)
    share.add(250)
    assert not bench.memory.is_tight
    share.add(1)
    assert bench.memory.is_tight
