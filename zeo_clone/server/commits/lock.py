"""The commit lock of one storage: who holds it, who waits for it, and what is said when that takes long.

In: transactors that want it and leave, for whatever reason.  Out: grants, one at a time, first come first
served (L2); word to a holder that takes its time (L1, L10).  Loop thread only, apart from what the status
reads.
"""
from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from zeo_clone.loop.core import Loop
from zeo_clone.server.commits.commit_queue import CommitQueue
from zeo_clone.server.commits.watchdog import Watchdog
from zeo_clone.server.stats import Stats
from zeo_clone.thresholds import WAITING

if TYPE_CHECKING:
    from zeo_clone.server.commits.transactor import Client, Transactor

log = logging.getLogger(__name__)


class CommitLock:
    """Of the storage `name`.  `timeout_s` None or 0: a commit may take for ever."""

    def __init__(self, loop: Loop, name: str, stats: Stats, timeout_s: float | None) -> None:
        self._loop = loop
        self._name = name
        self._stats = stats
        self._queue: CommitQueue[Transactor] = CommitQueue()
        self._watchdog = Watchdog(loop, timeout_s)

    def __repr__(self) -> str:
        return repr(self._queue)

    @property
    def holder(self) -> Transactor | None:
        """Whose transaction holds it."""
        return self._queue.holder

    @property
    def holding_client(self) -> Client | None:
        """The client that holds it."""
        return None if self._queue.holder is None else self._queue.holder.client

    def describe(self) -> str:
        """Who holds it, and how many wait for it; empty if it is free."""
        holder, waiting = self._queue.holder, self._queue.waiting
        more = f', and {waiting} more waited' if waiting else ''
        return '' if holder is None else f'{holder.client.name}{more}'

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return self._queue.waiting

    def in_line(self) -> list[Transactor]:
        """Who waits for it, the next one first."""
        return self._queue.in_line()

    def request(self, transactor: Transactor) -> bool:
        """Queue for it; True if it is granted at once.  Else ``granted`` is called later.

        Whoever has no connection any more is closed instead.
        """
        if not transactor.client.connected:
            transactor.close()
            return False
        if self._queue.request(transactor):
            self._locked(transactor)
            return True
        waiting = self._queue.waiting
        holder = self._queue.holder
        text = '%s: storage %r has %d transactions waiting; the commit lock is held by %s (%s)'
        args = (transactor.client.name, self._name, waiting, holder and holder.client.name,
                holder and holder.meta)
        if waiting >= WAITING:
            self._loop.throttle.report(log, logging.WARNING, 'waiting', self._name, text, *args)
        else:
            log.debug(text, *args)
        return False

    def release(self, transactor: Transactor) -> None:
        """`transactor` leaves the queue, or gives the lock back to the next one."""
        if transactor is self._queue.holder:
            self._watchdog.stop()
            self._stats.lock_time = None
        successor = self._queue.leave(transactor)
        if successor is not None:
            # Through the door: the work of one client ends before that of the next begins.
            self._loop.door(partial(self._grant, successor))

    def _grant(self, transactor: Transactor) -> None:
        if transactor is not self._queue.holder:
            return
        if not transactor.client.connected:
            transactor.close()  # it has gone while it waited: on to the next one
            return
        self._locked(transactor)
        transactor.phase.granted()

    def _locked(self, transactor: Transactor) -> None:
        self._stats.lock_time = self._loop.runtime.time()
        self._watchdog.start(transactor)
