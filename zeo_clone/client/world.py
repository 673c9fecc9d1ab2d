"""A world: what the storages of one process share, and what happens to them at a fork and at its end.

Any thread.  A storage with an I/O thread shares the world's one; without, it lives on the application's loop.
`REAL_WORLD` is that of this process: its storages that are still open when the interpreter ends are closed,
so that it ends silently (N12).  Each other one, on a runtime of its own, stands for one more process; whoever
made it ends it.

After a fork (N10) connections, I/O thread and cache files stay the parent's, which notices nothing.  Each
storage of the child begins anew when it is used: own thread, own connection, an empty temporary cache as
of the last transaction that the parent had seen.  Python's hooks do that at the fork; in a process that a
program in C has forked, uWSGI say, whoever first takes a part of a storage.
"""
from __future__ import annotations

import weakref
from typing import Any

from zeo_clone.client.iothread import IOThread
from zeo_clone.loop import APPLICATION
from zeo_clone.loop.application import ApplicationLoop
from zeo_clone.loop.core import Loop
from zeo_clone.loop.forks import ProcessLock
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.steps import take_steps

#: A fork waits so long for a transaction's effects that are under way in another thread, in seconds.
FORK_TIMEOUT_S = 2.0


class World:
    """One process, as its storages see it.  `application` default: a loop of its own."""

    def __init__(self, runtime: Runtime, application: ApplicationLoop | None = None) -> None:
        self.runtime = runtime
        self.io_thread = IOThread(runtime)
        self.application = application or ApplicationLoop(runtime)
        self._open: dict[weakref.ref[Any], None] = {}  # as they were opened; see `_storages`
        self._noticing = ProcessLock(runtime)  # held by who has storages begin anew
        self._still: list[Any] = []  # effects that a fork holds back
        self._by_python = False  # a fork is under way whose hooks are run

    # ---- the storages -------------------------------------------------------------------------------

    def remember(self, storage: Any) -> None:
        """`storage` is whole: look after it."""
        self._open[weakref.ref(storage, self._forget)] = None

    def forget(self, storage: Any) -> None:
        """`storage` is closed."""
        self._forget(weakref.ref(storage))

    def _forget(self, reference: weakref.ref[Any]) -> None:
        self._open.pop(reference, None)

    def _storages(self) -> list[Any]:
        """Those that are open.  Others open and close some meanwhile: each operation on the dict is atomic.
        """
        return [storage for reference in list(self._open) if (storage := reference()) is not None]

    def close(self) -> None:
        """At the end of the process: close the storages that are still open."""
        take_steps('the end of the process', *[storage.close for storage in self._storages()],
                   self.application.close)

    # ---- fork ---------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Called by Python: have no transaction's effects half done in the child's memory."""
        self._by_python = True
        for storage in self._storages():
            effects = storage.effects
            if effects.hold(FORK_TIMEOUT_S):
                self._still.append(effects)

    def after_fork_in_parent(self) -> None:
        """Called by Python: go on."""
        self._by_python = False
        while self._still:
            self._still.pop().release()

    def after_fork_in_child(self) -> None:
        """Called by Python: begin anew."""
        self.notice_fork()
        self.after_fork_in_parent()

    def notice_fork(self) -> None:
        """Any thread: if this process was forked since a storage was opened, all those begin anew."""
        with self._noticing:
            strangers = [storage for storage in self._storages() if not storage.at_home]
            if not strangers:
                return
            self.io_thread.orphan()
            self.application.orphan()
            for storage in strangers:
                storage.begin_anew()
            if not self._by_python:
                self.runtime.finish_fork()


class Life:
    """One storage's use of a loop."""

    def __init__(self, world: World, io_thread: bool) -> None:
        self._world = world
        self.io_thread = io_thread
        self.loop: Loop = world.io_thread.take() if io_thread else world.application.get()

    def start(self) -> None:
        """Have the loop run, if that is not the application's business."""
        if self.io_thread:
            self._world.io_thread.start()

    def process_pending(self) -> None:
        """Without an I/O thread: deliver what has arrived, in the calling thread."""
        self.loop.turn(0)

    def end(self, storage: Any) -> None:
        """Give the loop back."""
        self._world.forget(storage)
        if self.io_thread:
            self._world.io_thread.give_back(self.loop)
        else:
            self.loop.turn(0)  # what closing has left to the loop's thread


REAL_WORLD = World(REAL, APPLICATION)
REAL.at_fork(before=REAL_WORLD.before_fork, after_in_parent=REAL_WORLD.after_fork_in_parent,
             after_in_child=REAL_WORLD.after_fork_in_child)
REAL.at_exit(REAL_WORLD.close)
