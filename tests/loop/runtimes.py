"""Runtimes for the tests of the loop: one without epoll, one that counts kernel calls, one with a clock
that moves only when the loop waits."""
from __future__ import annotations

import select
import selectors

from zeo_clone.loop.runtime import REAL, Runtime

HAS_EPOLL = hasattr(select, 'epoll')


class WithoutEpoll(Runtime):
    """The real one on a system whose best poller is a selector of the standard library."""

    epoll = None


class CountingEpoll:
    """A real epoll that writes down what changes its registrations."""

    def __init__(self):
        self.changes = []
        self._epoll = select.epoll()

    def register(self, fd, mask):
        self.changes.append(('register', fd, mask))
        self._epoll.register(fd, mask)

    def modify(self, fd, mask):
        self.changes.append(('modify', fd, mask))
        self._epoll.modify(fd, mask)

    def unregister(self, fd):
        self.changes.append(('unregister', fd))
        self._epoll.unregister(fd)

    def poll(self, timeout=None, maxevents=-1):
        return self._epoll.poll(timeout, maxevents)

    def close(self):
        self._epoll.close()


class CountingSelector(selectors.DefaultSelector):
    """A real selector that writes down what changes its registrations."""

    def __init__(self):
        super().__init__()
        self.changes = []

    def register(self, fd, events, data=None):
        self.changes.append(('register', fd, events))
        return super().register(fd, events, data)

    def modify(self, fd, events, data=None):
        self.changes.append(('modify', fd, events))
        return super().modify(fd, events, data)

    def unregister(self, fd):
        self.changes.append(('unregister', fd))
        return super().unregister(fd)


class Counting(Runtime):
    """The real one with pollers that write down what they ask of the kernel; ``changes``."""

    def __init__(self):
        self.pollers = []

    def epoll(self):
        self.pollers.append(CountingEpoll())
        return self.pollers[-1]

    def selector(self):
        self.pollers.append(CountingSelector())
        return self.pollers[-1]

    @property
    def changes(self):
        return [change for poller in self.pollers for change in poller.changes]


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


class VirtualEpoll:
    """Says what the test put into `ready`; waiting is moving the clock."""

    def __init__(self, clock):
        self.clock = clock
        self.ready = []  # the answers of the next polls, each a list of (fd, mask)
        self.waits = []  # the timeouts of the polls so far
        self.limits = []  # how many answers they wanted at most

    def register(self, fd, mask):
        pass

    modify = register

    def unregister(self, fd):
        pass

    def poll(self, timeout=None, maxevents=-1):
        self.waits.append(timeout)
        self.limits.append(maxevents)
        if self.ready:
            return self.ready.pop(0)
        assert timeout is not None, 'the loop would wait for ever'
        self.clock.now += timeout
        return []

    def close(self):
        pass


class Virtual(Runtime):
    """A clock that stands still but for waits, and a poller that a test feeds."""

    eager_s = 0.0

    def __init__(self):
        self.monotonic = Clock()
        self.poller = VirtualEpoll(self.monotonic)

    def epoll(self):
        return self.poller


REAL_ONES = [REAL, WithoutEpoll()] if HAS_EPOLL else [WithoutEpoll()]
