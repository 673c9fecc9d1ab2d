"""The event loop, and what an application's own main loop calls.

``loop()`` and ``poll()`` turn the application loop: the one that storages opened with
``io_thread=False`` are registered with.  They run in the calling thread.
"""
from __future__ import annotations

import atexit

from zeo_clone.loop.core import Loop
from zeo_clone.loop.forks import ProcessLock
from zeo_clone.loop.runtime import REAL

__all__ = ['Loop', 'application_loop', 'close_application_loop', 'loop', 'poll']

_application_loop: list[Loop] = []
_lock = ProcessLock(REAL)  # protects _application_loop


def application_loop() -> Loop:
    """The process's loop for ``io_thread=False``, made when first asked for."""
    with _lock:
        orphan_application_loop()
        if not _application_loop:
            _application_loop.append(Loop())
        return _application_loop[0]


def close_application_loop() -> None:
    """At the end of the process: close it, if it was ever made."""
    with _lock:
        orphan_application_loop()
        loops = list(_application_loop)
        _application_loop.clear()
    for one in loops:
        one.close()


def orphan_application_loop() -> None:
    """In a process that was forked: let go of the loop if it is the parent's."""
    with _lock:
        if _application_loop and not _application_loop[0].home[0]:
            _application_loop.pop().orphan()


# Registered before those of the rooms above, hence called after them.
atexit.register(close_application_loop)


def poll(timeout: float | None = 0.0) -> bool:
    """Deliver what has arrived, once, and wait for it at most `timeout` seconds (None: for ever).

    True if something had arrived, of whatever kind: a message, a part of one, the end of a connection.  False
    only when the time is over.  What falls due inside meanwhile (timers, steps of connecting) is done, and
    does not end the wait.
    """
    return application_loop().turn_until_event(timeout)


def loop(timeout: float | None = 30.0, count: int | None = None) -> None:
    """Turn until no dispatcher is left, at most `count` times; each turn waits at most `timeout` s.

    As with asyncore, a turn also ends when something inside falls due.
    """
    turns = 0
    while len(application_loop()) and (count is None or turns < count):
        application_loop().turn(timeout)
        turns += 1
