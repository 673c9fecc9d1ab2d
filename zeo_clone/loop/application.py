"""The application's loop: the one that storages opened with ``io_thread=False`` are registered with.

Any thread asks for it; `loop` and `poll` run it in the calling thread.
"""
from __future__ import annotations

from zeo_clone.loop.core import Loop
from zeo_clone.loop.forks import ProcessLock
from zeo_clone.loop.runtime import Runtime


class ApplicationLoop:
    """A loop that is made when first asked for, another one in each process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = ProcessLock(runtime)  # protects _loop
        self._loop: Loop | None = None

    def get(self) -> Loop:
        """The loop."""
        with self._lock:
            self.orphan()
            if self._loop is None:
                self._loop = Loop(self._runtime)
            return self._loop

    def close(self) -> None:
        """At the end of the process: close it, if it was ever made."""
        with self._lock:
            self.orphan()
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def orphan(self) -> None:
        """Let go of the loop in a process that was forked, if it is the parent's."""
        with self._lock:
            loop = self._loop
            if loop is not None and not loop.home[0]:
                self._loop = None
                loop.orphan()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Deliver what has arrived, once, and wait for it at most `timeout` seconds (None: for ever).

        True if something had arrived, of whatever kind: a message, a part of one, the end of a connection.
        False only when the time is over.  What falls due inside meanwhile (timers, steps of connecting) is
        done, and does not end the wait.
        """
        return self.get().turn_until_event(timeout)

    def loop(self, timeout: float | None = 30.0, count: int | None = None) -> None:
        """Turn until no dispatcher is left, at most `count` times; each turn waits at most `timeout` s.

        As with asyncore, a turn also ends when something inside falls due.
        """
        turns = 0
        while len(self.get()) and (count is None or turns < count):
            self.get().turn(timeout)
            turns += 1
