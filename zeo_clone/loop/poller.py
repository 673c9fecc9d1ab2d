"""Pollers: which descriptors are ready?  And is it worth while to ask again before one sleeps?

In: ``set_interest(fd, mask)`` from any thread.  Out: ``poll(timeout)`` in the loop's thread.  A poller
knows numbers of descriptors and masks, not dispatchers.  A call reaches the kernel only when a mask
really changes, so a quiet connection costs nothing per turn.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from zeo_clone.loop.runtime import Runtime

READ = 1
WRITE = 4
ERROR = 8

#: After an attempt in vain so many waits sleep at once: 1, 3, 7, ... at most.
MAX_REST = 63
#: Looks of one attempt, should the clock stand still.
MAX_LOOKS = 1000
#: Who gave way and got the processor back only after so many seconds, gave it to somebody who just computes:
#: that one keeps it until the system's scheduler takes it away, 3 or 4 ms with a tick of 250 Hz ...
LONG_S = 0.002
#: ... and is still there, most likely.  Whoever has slept is let in at once; so for so many seconds nobody
#: looks.
CROWDED_S = 0.1
#: After so long there are several that compute, and not a few threads of this process: nobody looks for so
#: many times as long as that took, as each of them has its turn before; but for no longer than this.
SEVERAL_S, CROWDED_TIMES, LONGEST_CROWDED_S = 0.01, 30, 1.0


class Eagerness:
    """Ask again and again for a moment before sleeping, where that has paid lately.

    Waking a processor that sleeps, a virtual one above all, takes longer than an exchange of small messages
    on one machine.  A thread whose answer usually comes within that moment finds it without having slept;
    one whose answers take longer soon stops trying, and sleeps at once.  In: a function that looks without
    waiting, for ``runtime.eager_s`` seconds at most; 0 is never.  Out: what it found.  One thread at a time.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._clock = runtime.monotonic
        self._give_way = runtime.give_way  # to whom else the processor could serve, the peer perhaps
        self._eager_s = runtime.eager_s
        self._rest = 0  # the length of the last rest; 0 after a success
        self._resting = 0  # waits to come that sleep at once
        self._crowded_until = 0.0

    def look(self, poll: Callable[..., Any], *args: Any) -> Any:
        """What ``poll(*args)`` found, or a false value: then sleep."""
        if self._resting:
            self._resting -= 1
            return None
        if not self._eager_s:
            return None
        now = self._clock()
        if now < self._crowded_until:
            return None
        deadline = now + self._eager_s
        for _ in range(MAX_LOOKS):
            found = poll(*args)
            if found:
                self._rest = 0
                return found
            self._give_way()
            before, now = now, self._clock()
            if now - before > LONG_S:
                pause_s = CROWDED_S
                if now - before > SEVERAL_S:
                    pause_s = min(CROWDED_TIMES * (now - before), LONGEST_CROWDED_S)
                self._crowded_until = now + pause_s
            if now >= deadline:
                break
        self._rest = self._resting = min(2 * self._rest + 1, MAX_REST)
        return None


class Poller(Protocol):
    """What the loop asks of a poller."""

    #: True if an interest changed by another thread wakes a `poll` that is under way.
    live: bool

    def set_interest(self, fd: int, mask: int) -> None:
        """Wait for READ and/or WRITE on `fd` from now on; 0 forgets it."""

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Ready descriptors ``[(fd, mask)]``; waits at most `timeout` seconds, None for ever."""

    def close(self) -> None:
        """Release the kernel object."""


class EpollPoller:
    """Linux epoll.  ``epoll_ctl`` takes effect at once, also while another thread waits."""

    live = True
    # One descriptor must not starve the others: at most this many answers a turn.
    MAX_EVENTS = 512

    def __init__(self, runtime: Runtime) -> None:
        self._epoll = runtime.epoll()  # type: ignore[misc]
        self._eagerness = Eagerness(runtime)
        self._masks: dict[int, int] = {}  # single operations on it are atomic
        self._closed = False

    def set_interest(self, fd: int, mask: int) -> None:
        old = self._masks.get(fd, 0)
        if mask == old or self._closed:
            return
        if not mask:
            del self._masks[fd]
            self._epoll.unregister(fd)
        elif old:
            self._masks[fd] = mask
            self._epoll.modify(fd, mask)
        else:
            self._masks[fd] = mask
            self._epoll.register(fd, mask)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        poll = self._epoll.poll
        ready: list[tuple[int, int]] = (timeout != 0 and self._eagerness.look(poll, 0, self.MAX_EVENTS)
                                        or poll(timeout, self.MAX_EVENTS))
        return ready

    def close(self) -> None:
        self._closed = True
        self._epoll.close()


class SelectorPoller:
    """The best selector of other systems; changes of interest wait for the next turn."""

    live = False

    def __init__(self, runtime: Runtime) -> None:
        self._selector = runtime.selector()
        self._lock = runtime.lock()  # protects _masks and _changes
        self._masks: dict[int, int] = {}
        self._changes: dict[int, int] = {}  # since the last poll

    def set_interest(self, fd: int, mask: int) -> None:
        with self._lock:
            if mask == self._masks.get(fd, 0):
                return
            self._changes[fd] = mask
            if mask:
                self._masks[fd] = mask
            else:
                del self._masks[fd]

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        with self._lock:
            changes, self._changes = self._changes, {}
        registered = self._selector.get_map()
        for fd, mask in changes.items():
            events = (1 if mask & READ else 0) | (2 if mask & WRITE else 0)
            if fd in registered:
                self._selector.unregister(fd)
            if events:
                with contextlib.suppress(OSError):  # another thread has closed it since; the next turn hears
                    self._selector.register(fd, events)
        return [(key.fd, (READ if events & 1 else 0) | (WRITE if events & 2 else 0))
                for key, events in self._selector.select(timeout)]

    def close(self) -> None:
        self._selector.close()


def best_poller(runtime: Runtime) -> Poller:
    """epoll where there is one, else the standard library's best selector."""
    return EpollPoller(runtime) if runtime.epoll is not None else SelectorPoller(runtime)
