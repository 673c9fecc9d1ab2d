"""Lifetimes: which storages are open, on which loop; what happens at a fork and at the end of the process.

Any thread.  A storage with an I/O thread shares the process's one; without, it lives on the application's
loop.  Storages that are still open when the interpreter ends are closed, so that it ends silently (N12).

After a fork (N10) connections, I/O thread and cache files stay the parent's, which notices nothing.  Each
storage of the child begins anew when it is used: own thread, own connection, an empty temporary cache as
of the last transaction that the parent had seen.  Python's hooks do that at the fork; in a process that a
program in C has forked, uWSGI say, whoever first takes a part of a storage.
"""
from __future__ import annotations

import atexit
import os
import weakref
from typing import Any

from zeo_clone.client.iothread import SHARED
from zeo_clone.loop import application_loop, close_application_loop, orphan_application_loop
from zeo_clone.loop.core import Loop
from zeo_clone.loop.forks import ProcessLock
from zeo_clone.loop.runtime import REAL
from zeo_clone.steps import take_steps

#: A fork waits so long for a transaction's effects that are under way in another thread, in seconds.
FORK_TIMEOUT_S = 2.0

_open: dict[weakref.ref[Any], None] = {}  # in the order in which they were opened; see `_storages`
_noticing = ProcessLock(REAL)  # one thread at a time has storages begin anew
_still: list[Any] = []  # effects that a fork holds back
_by_python = False  # a fork is under way whose hooks are run


class Life:
    """One storage's use of a loop."""

    def __init__(self, io_thread: bool) -> None:
        self.io_thread = io_thread
        self.loop: Loop = SHARED.take() if io_thread else application_loop()

    def start(self) -> None:
        """Have the loop run, if that is not the application's business."""
        if self.io_thread:
            SHARED.start()

    def process_pending(self) -> None:
        """Without an I/O thread: deliver what has arrived, in the calling thread."""
        self.loop.turn(0)

    def end(self, storage: Any) -> None:
        """Give the loop back."""
        _open.pop(weakref.ref(storage), None)
        if self.io_thread:
            SHARED.give_back(self.loop)
        else:
            self.loop.turn(0)  # what closing has left to the loop's thread


def remember(storage: Any) -> None:
    """`storage` is whole: look after it."""
    _open[weakref.ref(storage, _forget)] = None


def _forget(reference: weakref.ref[Any]) -> None:
    _open.pop(reference, None)


def _storages() -> list[Any]:
    """Those that are open.  Others open and close some meanwhile: each operation on the dict is atomic."""
    return [storage for reference in list(_open) if (storage := reference()) is not None]


# ---- fork ---------------------------------------------------------------------------------------

def _before_fork() -> None:
    global _by_python
    _by_python = True
    # So that no transaction's effects are half done in the child's memory.
    for storage in _storages():
        effects = storage.effects
        if effects.hold(FORK_TIMEOUT_S):
            _still.append(effects)


def _after_fork_in_parent() -> None:
    global _by_python
    _by_python = False
    while _still:
        _still.pop().release()


def _after_fork_in_child() -> None:
    notice_fork()
    _after_fork_in_parent()


def notice_fork() -> None:
    """Any thread: if this process was forked since a storage was opened, all those begin anew."""
    with _noticing:
        strangers = [storage for storage in _storages() if not storage.at_home]
        if not strangers:
            return
        SHARED.orphan()
        orphan_application_loop()
        for storage in strangers:
            storage.begin_anew()
        if not _by_python:
            REAL.finish_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                    after_in_child=_after_fork_in_child)


# ---- the end ------------------------------------------------------------------------------------


def close_all() -> None:
    """At the end of the process: close the storages that are still open."""
    take_steps('the end of the process', *[storage.close for storage in _storages()], close_application_loop)


atexit.register(close_all)
