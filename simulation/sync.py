"""Locks of every kind, for tasks.

Made by a `SimRuntime`.  As with real threads whoever asks first need not be first: a task that is woken asks
again, and another one may have been faster.
"""
from __future__ import annotations

from collections import deque
from typing import Any

from simulation.kernel import Kernel, Task


class _Waiting:
    """Tasks that wait for something."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waiting: list[Task] = []

    def _wait(self, timeout: float | None) -> bool:
        task = self._kernel.current
        self._waiting.append(task)
        try:
            return self._kernel.park(timeout, self)
        finally:
            if task in self._waiting:
                self._waiting.remove(task)

    def _wake_one(self) -> None:
        waiting = self._waiting
        if waiting:
            self._kernel.wake(waiting.pop(self._kernel.dice.below(len(waiting)) if len(waiting) > 1 else 0))

    def _wake_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._kernel.wake(task)


class Lock(_Waiting):
    """As ``threading.Lock``."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._locked = False

    def __repr__(self) -> str:
        return f'<Lock{", locked" if self._locked else ""}>'

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._kernel.give_way()
        if not self._locked:
            self._locked = True
            return True
        if not blocking:
            return False
        deadline = None if timeout < 0 else self._kernel.now + timeout
        while self._locked:
            left = None if deadline is None else deadline - self._kernel.now
            if left is not None and left <= 0:
                return False
            self._wait(left)
        self._locked = True
        return True

    def release(self) -> None:
        if not self._locked:
            raise RuntimeError('release unlocked lock')
        self._locked = False
        self._wake_one()
        self._kernel.give_way()

    def locked(self) -> bool:
        return self._locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class RLock(_Waiting):
    """As ``threading.RLock``."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._owner: Any = None
        self._count = 0

    def __repr__(self) -> str:
        return f'<RLock of {self._owner and self._owner.name}>'

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        kernel = self._kernel
        me = kernel.current
        if self._owner is me and me is not None:
            self._count += 1
            return True
        kernel.give_way()
        if self._owner is not None:
            if not blocking:
                return False
            deadline = None if timeout < 0 else kernel.now + timeout
            while self._owner is not None:
                left = None if deadline is None else deadline - kernel.now
                if left is not None and left <= 0:
                    return False
                self._wait(left)
        self._owner, self._count = me, 1
        return True

    def release(self) -> None:
        if self._owner is not self._kernel.current:
            if self._kernel.ending:
                return
            raise RuntimeError('cannot release un-acquired lock')
        self._count -= 1
        if not self._count:
            self._owner = None
            self._wake_one()
            self._kernel.give_way()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Condition:
    """As ``threading.Condition``."""

    def __init__(self, kernel: Kernel, lock: Any = None) -> None:
        self._kernel = kernel
        self._lock = RLock(kernel) if lock is None else lock
        self._waiters: deque[Lock] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return bool(self._lock.acquire())

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        held = getattr(self._lock, '_count', 1)
        waiter = Lock(self._kernel)
        waiter.acquire()
        self._waiters.append(waiter)  # before the lock is free: whoever notifies then means this one
        for _ in range(held):
            self._lock.release()
        try:
            return waiter.acquire(timeout=-1 if timeout is None else timeout)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if not self._kernel.ending:
                for _ in range(held):
                    self._lock.acquire()

    def notify(self, n: int = 1) -> None:
        for _ in range(min(n, len(self._waiters))):
            self._waiters.popleft().release()

    def notify_all(self) -> None:
        self.notify(len(self._waiters))


class Event(_Waiting):
    """As ``threading.Event``."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._wake_all()
        self._kernel.give_way()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else self._kernel.now + timeout
        while not self._set:
            left = None if deadline is None else deadline - self._kernel.now
            if left is not None and left <= 0:
                break
            self._wait(left)
        return self._set
