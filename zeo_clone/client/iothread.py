"""The one I/O thread of a world, shared by all its ClientStorages.

Any thread takes and gives back the loop; the thread lives as long as somebody uses it.  It connects,
shakes hands, keeps timers and reads what the server sends while the application is silent.  Calls do not
go through it.
"""
from __future__ import annotations

import logging
from typing import Any

from zeo_clone.loop.core import Loop
from zeo_clone.loop.forks import ProcessLock
from zeo_clone.loop.runtime import Runtime

log = logging.getLogger(__name__)


class IOThread:
    """A loop in a daemon thread, counted by its users."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = ProcessLock(runtime)  # protects the loop, its thread and the count
        self._loop: Loop | None = None
        self._thread: Any = None
        self._users = 0

    def take(self) -> Loop:
        """The loop, made for its first user.  Give it back with `give_back`."""
        with self._lock:
            if self._loop is None:
                self._loop = Loop(self._runtime)
            self._users += 1
            return self._loop

    def start(self) -> None:
        """Somebody needs the loop to run: start the thread unless it runs."""
        with self._lock:
            if self._thread is None and self._loop is not None:
                loop = self._loop
                self._thread = self._runtime.start_thread(lambda: _run(loop), 'zeo_clone I/O')

    def orphan(self) -> None:
        """Let go of thread and loop in a process that was forked, if they are the parent's."""
        with self._lock:
            loop = self._loop
            if loop is not None and not loop.home[0]:
                self._loop, self._thread, self._users = None, None, 0
                loop.orphan()

    def give_back(self, loop: Loop) -> None:
        """The last user's call ends the thread and waits until it has ended."""
        with self._lock:
            if loop is not self._loop:
                return  # of another life: before a fork
            self._users -= 1
            if self._users:
                return
            thread, self._loop, self._thread = self._thread, None, None
        loop.stop()
        if thread is not None and not loop.in_loop_thread():
            thread.join()
        loop.close()


def _run(loop: Loop) -> None:
    """Run `loop` to its end.  Others use it, too: what of an application is called here, for a transaction of
    another client say, must not end the thread by ``sys.exit``."""
    while True:
        try:
            loop.run()
        except (SystemExit, KeyboardInterrupt) as error:  # noqa: PERF203 - mostly there is one turn of it
            loop.throttle.report(log, logging.CRITICAL, type(error).__name__, '',
                                 'the application wanted to end the I/O thread, which goes on', error=error)
        else:
            return
