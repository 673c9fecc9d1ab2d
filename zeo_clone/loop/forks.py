"""A lock that no fork leaves locked.

Any thread.  A process that a program in C has forked is told by nobody; a lock that was held at that moment
by a thread of its parent would stay so for ever.
"""
from __future__ import annotations

from typing import Any

from zeo_clone.loop.runtime import Runtime


class ProcessLock:
    """A context manager: an RLock, another one in each process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._locks: dict[int, Any] = {}  # single operations on it are atomic

    def __enter__(self) -> None:
        self._locks.setdefault(self._runtime.getpid(), self._runtime.rlock()).acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._locks[self._runtime.getpid()].release()
