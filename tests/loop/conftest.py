"""Fixtures of the loop's tests: loops over each kind of poller and pairs of sockets."""
from __future__ import annotations

import socket

import pytest

from tests.loop.runtimes import REAL_ONES, Virtual
from zeo_clone.loop.core import Loop


@pytest.fixture(params=REAL_ONES, ids=lambda runtime: type(runtime).__name__)
def loop(request, pair, other_pair):
    """A Loop in real time, over epoll and over the standard library's selector.

    It depends on the pairs so that it is closed before they are.
    """
    loop = Loop(request.param)
    yield loop
    loop.close()


@pytest.fixture
def virtual_loop(pair, other_pair):
    """A Loop whose clock moves only when it waits; ``runtime.poller.ready`` is what it will find."""
    loop = Loop(Virtual())
    yield loop
    loop.close()


def _pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pair():
    """Two connected sockets that do not block."""
    yield from _pair()


@pytest.fixture
def other_pair():
    """Two more."""
    yield from _pair()
