"""The commit queue."""
from __future__ import annotations

import pytest

from zeo_clone.server.commits.lock import CommitQueue


class Member:
    """Somebody who wants the lock."""


@pytest.fixture
def queue():
    return CommitQueue()


@pytest.fixture
def members():
    return [Member() for _ in range(4)]


def test_the_first_gets_the_lock_at_once(queue, members):
    assert queue.request(members[0]) is True
    assert queue.holder is members[0]


def test_first_come_first_served(queue, members):
    """L2."""
    assert list(map(queue.request, members)) == [True, False, False, False]
    assert list(map(queue.leave, members)) == [*members[1:], None]
    assert queue.holder is None


def test_several_can_hold_it_where_there_is_room():
    """L2: the first of them is who has held it for longest."""
    queue, (a, b, c, d) = CommitQueue(2), [Member() for _ in range(4)]
    assert [queue.request(member) for member in (a, b, c, d)] == [True, True, False, False]
    assert queue.holder is a and queue.holds(b) and not queue.holds(c)
    assert queue.leave(b) is c
    assert queue.leave(a) is d
    assert queue.holder is c and queue.waiting == 0
    assert queue.leave(c) is queue.leave(d) is queue.holder is None


def test_waiting_members_that_vanish_do_not_stall_the_queue(queue, members):
    """L2."""
    a, b, c, d = members
    for member in members:
        queue.request(member)
    assert queue.leave(b) is None
    assert queue.leave(c) is None
    assert queue.waiting == 1
    assert queue.leave(a) is d


def test_leaving_without_being_there_changes_nothing(queue, members):
    queue.request(members[0])
    assert queue.leave(members[1]) is None
    assert queue.holder is members[0]


def test_nobody_stands_in_the_queue_twice(queue, members):
    for member in members[:2]:
        queue.request(member)
    for member in members[:2]:
        with pytest.raises(ValueError, match='in the queue already'):
            queue.request(member)


def test_while_it_is_paused_nobody_gets_the_lock(queue, members):
    """L2, L12: who has it keeps it; the order stays."""
    a, b, c, d = members
    queue.request(a)
    queue.pause()
    assert not queue.request(b) and queue.holder is a
    assert queue.leave(a) is None and queue.holder is None
    assert not queue.request(c) and queue.waiting == 2
    assert queue.resume() == [b]
    assert queue.holder is b
    assert queue.leave(b) is c


def test_a_pause_of_a_lock_that_is_held_changes_no_holder(queue, members):
    queue.request(members[0])
    queue.pause()
    assert queue.resume() == [] and queue.holder is members[0]
    queue.leave(members[0])
    queue.pause()
    assert queue.resume() == [] and queue.request(members[1])
