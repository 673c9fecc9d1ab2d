"""Readiness: what can be polled, and who polls."""
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from simulation.kernel import Kernel, Task
    from simulation.machine import Process

READ, WRITE, ERROR, HANGUP = 1, 4, 8, 16
ALWAYS = ERROR | HANGUP


class Pollable:
    """Something with a descriptor whose readiness changes."""

    def __init__(self) -> None:
        self._watchers: dict[Watcher, int] = {}

    def ready(self) -> int:
        """What it is ready for now."""
        raise NotImplementedError

    def changed(self) -> None:
        """It may be ready for something else."""
        for watcher in list(self._watchers):
            watcher.look()

    def watch(self, watcher: Watcher, fd: int) -> None:
        """Tell `watcher` of changes."""
        self._watchers[watcher] = fd

    def unwatch(self, watcher: Watcher) -> None:
        """No longer."""
        self._watchers.pop(watcher, None)

    def forget_watchers(self) -> None:
        """Its descriptor is closed."""
        watchers, self._watchers = self._watchers, {}
        for watcher, fd in watchers.items():
            watcher.lost(fd)


class Watcher:
    """Waits for things to be ready."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waiting: list[Task] = []

    def look(self) -> None:
        """Something may be ready."""
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._kernel.wake(task)

    def lost(self, fd: int) -> None:
        """A descriptor is closed."""

    def wait(self, timeout: float | None) -> None:
        """Until `look`, or for `timeout` seconds."""
        self._waiting.append(self._kernel.current)
        self._kernel.park(timeout, self)


class One(Watcher):
    """Of one descriptor: as ``poll``."""

    def __init__(self, process: Process, fd: int, mask: int) -> None:
        super().__init__(process.kernel)
        self._process = process
        self._fd = fd
        self._mask = mask | ALWAYS

    def __repr__(self) -> str:
        return f'<poll of {self._fd}>'

    def poll(self, timeout_s: float | None) -> bool:
        """Is it ready?  Waits so long for it."""
        kernel = self._kernel
        kernel.give_way()
        if self._fd not in self._process.fds:
            return True  # as POLLNVAL
        thing: Pollable = self._process.fds[self._fd]
        if thing.ready() & self._mask:
            return True
        if timeout_s is not None and timeout_s <= 0:
            return False
        deadline = None if timeout_s is None else kernel.now + timeout_s
        thing.watch(self, self._fd)
        try:
            while not thing.ready() & self._mask:
                left = None if deadline is None else deadline - kernel.now
                if left is not None and left <= 0:
                    return False
                self.wait(left)
                if self._process.fds.get(self._fd) is not thing:
                    return True  # closed by another thread; a real poll may sleep on
        finally:
            thing.unwatch(self)
        return True


class Epoll(Watcher):
    """As ``select.epoll``."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.kernel)
        self._process = process
        self._masks: dict[int, tuple[Pollable, int]] = {}
        self._fd = process.new_fd(self)

    def __repr__(self) -> str:
        return f'<epoll {self._fd}>'

    def lost(self, fd: int) -> None:
        self._masks.pop(fd, None)

    def vanish(self, silently: bool = False) -> None:
        """Its process is no more."""

    def register(self, fd: int, mask: int) -> None:
        self._set(fd, mask, False)

    def modify(self, fd: int, mask: int) -> None:
        self._set(fd, mask, True)

    def _set(self, fd: int, mask: int, known: bool) -> None:
        thing = self._process.fds.get(fd)
        if thing is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if (fd in self._masks) is not known:
            number = errno.ENOENT if known else errno.EEXIST
            raise OSError(number, os.strerror(number))
        self._masks[fd] = thing, mask | ALWAYS
        thing.watch(self, fd)
        self.look()

    def unregister(self, fd: int) -> None:
        if fd not in self._masks:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._masks.pop(fd)[0].unwatch(self)

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        kernel = self._kernel
        kernel.give_way()
        if timeout is not None and timeout < 0:
            timeout = None
        deadline = None if timeout is None else kernel.now + timeout
        while True:
            found = [(fd, mask) for fd, (thing, wanted) in self._masks.items()
                     if (mask := thing.ready() & wanted)]
            if found:
                if len(found) > 1:
                    kernel.dice.shuffle(found)
                return found[:maxevents] if maxevents > 0 else found
            left = None if deadline is None else deadline - kernel.now
            if left is not None and left <= 0:
                return []
            self.wait(left)

    def close(self) -> None:
        if self._fd >= 0:
            self._process.free_fd(self._fd)
            self._fd = -1
            for thing, _ in self._masks.values():
                thing.unwatch(self)
            self._masks.clear()


class Key(NamedTuple):
    """As ``selectors.SelectorKey``."""

    fileobj: int
    fd: int
    events: int
    data: Any


class Selector:
    """As the selectors of the standard library."""

    def __init__(self, process: Process) -> None:
        self._epoll = Epoll(process)
        self._keys: dict[int, Key] = {}

    def get_map(self) -> dict[int, Key]:
        return self._keys

    def register(self, fd: int, events: int, data: Any = None) -> Key:
        self._epoll.register(fd, self._mask(events))
        key = self._keys[fd] = Key(fd, fd, events, data)
        return key

    def unregister(self, fd: int) -> Key:
        key = self._keys.pop(fd)
        if fd in self._epoll._masks:
            self._epoll.unregister(fd)
        return key

    @staticmethod
    def _mask(events: int) -> int:
        return (READ if events & 1 else 0) | (WRITE if events & 2 else 0)

    def select(self, timeout: float | None = None) -> list[tuple[Key, int]]:
        return [(self._keys[fd], (1 if mask & ~WRITE else 0) | (2 if mask & ~READ else 0))
                for fd, mask in self._epoll.poll(timeout) if fd in self._keys]

    def close(self) -> None:
        self._epoll.close()
