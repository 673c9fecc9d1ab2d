"""Lifetimes: which storages are open, on which loop, and what happens at the end of the process.

Any thread.  A storage with an I/O thread shares the process's one; without, it lives on the application's
loop.  Storages that are still open when the interpreter ends are closed, so that it ends silently (N12).
"""
from __future__ import annotations

import atexit
import weakref
from typing import Any

from zeo_clone.client.iothread import SHARED
from zeo_clone.loop import application_loop, close_application_loop
from zeo_clone.loop.core import Loop

_open: weakref.WeakSet[Any] = weakref.WeakSet()


class Life:
    """One storage's use of a loop."""

    def __init__(self, io_thread: bool) -> None:
        self.io_thread = io_thread
        self.loop: Loop = SHARED.take() if io_thread else application_loop()

    def process_pending(self) -> None:
        """Without an I/O thread: deliver what has arrived, in the calling thread."""
        self.loop.turn(0)

    def end(self, storage: Any) -> None:
        """Give the loop back."""
        _open.discard(storage)
        if self.io_thread:
            SHARED.give_back(self.loop)
        else:
            self.loop.turn(0)  # what closing has left to the loop's thread


def begin(storage: Any, io_thread: bool) -> Life:
    """`storage` is being opened."""
    _open.add(storage)
    return Life(io_thread)


def close_all() -> None:
    """At the end of the process: close the storages that are still open."""
    for storage in list(_open):
        storage.close()
    close_application_loop()


atexit.register(close_all)
