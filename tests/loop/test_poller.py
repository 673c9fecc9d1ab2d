from __future__ import annotations

import os
import socket
import threading

import pytest

from tests.loop.runtimes import HAS_EPOLL, Counting, Virtual
from zeo_clone.loop.poller import READ, WRITE, EpollPoller, SelectorPoller, best_poller
from zeo_clone.loop.runtime import REAL

KINDS = [EpollPoller, SelectorPoller] if HAS_EPOLL else [SelectorPoller]


@pytest.fixture
def runtime():
    return Counting()


@pytest.fixture(params=KINDS)
def poller(request, runtime):
    poller = request.param(runtime)
    yield poller
    poller.close()


def test_interest_that_does_not_change_does_not_reach_the_kernel(poller, runtime, pair):
    fd = pair[0].fileno()
    for _ in range(100):
        poller.set_interest(fd, READ)
        assert poller.poll(0) == []
    assert runtime.changes == [('register', fd, READ)]


def test_forgetting_what_was_never_polled_does_not_reach_the_kernel(poller, runtime, pair):
    poller.set_interest(pair[0].fileno(), 0)
    assert poller.poll(0) == []
    assert runtime.changes == []


def test_each_transition_takes_effect(poller, pair):
    ours, theirs = pair
    fd = ours.fileno()
    theirs.send(b'x')
    for mask in (READ, WRITE, READ | WRITE, READ, 0, WRITE):
        poller.set_interest(fd, mask)
        assert poller.poll(0) == ([(fd, mask)] if mask else [])


def test_hang_up_is_reported_although_only_reading_was_asked_for(poller, pair):
    ours, theirs = pair
    poller.set_interest(ours.fileno(), READ)
    theirs.close()
    (fd, mask), = poller.poll(0)
    assert fd == ours.fileno()
    assert mask & ~WRITE


def test_number_of_a_closed_descriptor_can_be_used_again_at_once(poller, pair):
    ours, theirs = pair
    fd = ours.fileno()
    poller.set_interest(fd, READ)
    assert poller.poll(0) == []
    poller.set_interest(fd, 0)
    other, peer = socket.socketpair()
    with other, peer:
        os.dup2(other.fileno(), fd)  # closes the old one
        poller.set_interest(fd, READ)
        peer.send(b'x')
        assert poller.poll(0) == [(fd, READ)]


def test_a_descriptor_that_another_thread_closes_just_then_ends_nothing():
    """Between the look at the changes and their registration, which is not that of epoll."""
    poller = SelectorPoller(REAL)
    ours, theirs = socket.socketpair()
    poller.set_interest(ours.fileno(), READ)
    fd = ours.fileno()
    ours.close()
    assert poller.poll(0) == []
    poller.set_interest(fd, 0)
    theirs.close()
    other, peer = socket.socketpair()
    with other, peer:
        poller.set_interest(other.fileno(), WRITE)
        assert poller.poll(0) == [(other.fileno(), WRITE)]
    poller.close()


def test_answers_of_one_turn_are_limited():
    runtime = Virtual()
    EpollPoller(runtime).poll(0)
    assert runtime.poller.limits == [EpollPoller.MAX_EVENTS]


@pytest.mark.skipif(not HAS_EPOLL, reason='other pollers are woken by the trigger')
def test_live_poller_notices_a_change_while_it_waits(runtime, pair):
    ours, theirs = pair
    theirs.send(b'x')
    poller = EpollPoller(runtime)
    found = []
    waiting = threading.Thread(target=lambda: found.append(poller.poll(None)))
    waiting.start()
    poller.set_interest(ours.fileno(), READ)
    waiting.join()
    poller.close()
    assert found == [[(ours.fileno(), READ)]]


def test_poller_that_was_closed_takes_no_notice_of_interests(poller, pair):
    """A thread may leave a connection just when the loop ends."""
    fd = pair[0].fileno()
    poller.set_interest(fd, READ)
    poller.close()
    for mask in (READ | WRITE, 0, READ):
        poller.set_interest(fd, mask)


def test_best_poller_is_epoll_where_there_is_one():
    poller = best_poller(REAL)
    assert type(poller) is KINDS[0]
    poller.close()
