"""The commit lock of one storage: who holds it, who waits for it, and what is said when that takes long.

In: transactors that want it and leave, for whatever reason.  Out: grants, one at a time, or as many as a
database has connections for commits, first come first served (L2); word to a holder that takes its time (L1,
L10).  Loop thread only, apart from what the status reads and a pack's `take_turn`; the watchdog goes by the
loop's monotonic clock.
"""
from __future__ import annotations

import logging
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from zeo_clone.loop.core import Loop
from zeo_clone.server.stats import Stats
from zeo_clone.thresholds import HELD_S, WAITING

if TYPE_CHECKING:
    from zeo_clone.server.commits.transactor import Client, Transactor

log = logging.getLogger(__name__)

#: Whoever holds the lock for long (`HELD_S`) is named in the log, and again each time so much later.
WARN_INTERVAL_S = 10.0

Member = TypeVar('Member')


class CommitQueue(Generic[Member]):
    """Who holds the lock and who is next: first come, first served.

    Members are compared by identity and never called: it knows neither sockets nor threads, nor what a commit
    is.  Bounded by its members: each can stand in it once.  `room`: so many hold it at the same time.
    """

    def __init__(self, room: int = 1) -> None:
        self._room = room
        self._holders: dict[Member, None] = {}
        self._waiting: deque[Member] = deque()
        self._paused = False  # nobody gets it

    def __repr__(self) -> str:
        state = 'locked' if self._holders else 'paused' if self._paused else 'free'
        return f'<CommitQueue {state}, {self.waiting} waiting>'

    @property
    def holder(self) -> Member | None:
        """Who holds the lock, for longest."""
        return next(iter(self._holders), None)

    def holds(self, member: Member) -> bool:
        """Does `member` hold the lock?"""
        return member in self._holders

    @property
    def waiting(self) -> int:
        """How many wait for the lock."""
        return len(self._waiting)

    def in_line(self) -> list[Member]:
        """Who waits for the lock, the next one first."""
        return list(self._waiting)

    def request(self, member: Member) -> bool:
        """Queue `member`; True if it holds the lock now."""
        if member in self._holders or member in self._waiting:
            raise ValueError(f'{member!r} is in the queue already')
        if len(self._holders) < self._room and not self._paused:
            self._holders[member] = None
            return True
        self._waiting.append(member)
        return False

    def pause(self) -> None:
        """Give the lock to nobody else until `resume`."""
        self._paused = True

    def resume(self) -> list[Member]:
        """End `pause`; the new holders."""
        self._paused = False
        return list(iter(self._promote, None))

    def leave(self, member: Member) -> Member | None:
        """Take `member` out: it has finished, or vanished.  The new holder, if that changed, else None.
        """
        if member in self._holders:
            del self._holders[member]
            return self._promote()
        if member in self._waiting:
            self._waiting.remove(member)
        return None

    def _promote(self) -> Member | None:
        if self._paused or not self._waiting or len(self._holders) >= self._room:
            return None
        successor = self._waiting.popleft()
        self._holders[successor] = None
        return successor


class Holder(Protocol):
    """A holder of the lock, as the watchdog sees it."""

    def held_long(self, held_s: float) -> None:
        """It takes its time: seconds so far."""

    def timed_out(self, timeout_s: float) -> None:
        """It has held the lock for too long."""


class Watchdog:
    """The watch over whoever holds the lock: one timer, however many commits, which looks when it rings.

    `timeout_s` None or 0: nobody takes too long.
    """

    def __init__(self, loop: Loop, timeout_s: float | None) -> None:
        self._loop = loop
        self._timeout_s = timeout_s or math.inf
        self._holder: Holder | None = None
        self._since = 0.0  # when it got the lock
        self._warn_s = HELD_S  # when it has held the lock so long, it is named
        self._ticking = False

    def start(self, holder: Holder) -> None:
        """`holder` has `timeout_s` from now."""
        self._holder = holder
        self._since = self._loop.runtime.monotonic()
        self._warn_s = HELD_S
        if not self._ticking:
            self._tick(0.0)

    def stop(self) -> None:
        """Stop watching: the lock is free."""
        self._holder = None

    def _tick(self, held_s: float) -> None:
        self._ticking = True
        self._loop.call_later(min(self._warn_s, self._timeout_s) - held_s, self._ring)

    def _ring(self) -> None:
        self._ticking = False
        holder = self._holder
        if holder is None:
            return
        held_s = self._loop.runtime.monotonic() - self._since
        if held_s >= self._timeout_s:
            self._holder = None
            holder.timed_out(self._timeout_s)
            return
        try:
            if held_s >= self._warn_s:
                self._warn_s = held_s + WARN_INTERVAL_S
                holder.held_long(held_s)
        finally:
            self._tick(held_s)


class CommitLock:
    """The commit lock of the storage `name`, for `room` transactions at the same time.

    `timeout_s` None or 0: a commit may take for ever.
    """

    def __init__(self, loop: Loop, name: str, stats: Stats, timeout_s: float | None, room: int = 1) -> None:
        self._loop = loop
        self._name = name
        self._stats = stats
        self._queue: CommitQueue[Transactor] = CommitQueue(room)
        self._idle = [Watchdog(loop, timeout_s) for _ in range(room)]
        self._watched: dict[Transactor, tuple[Watchdog, float]] = {}  # and since when; the first one first
        self._asked: Any = None  # the event that a pack waits for, at last
        self._turn: Any = None  # the same, when the loop's thread knows of it
        self._has_ended = False

    def __repr__(self) -> str:
        return repr(self._queue)

    @property
    def holder(self) -> Transactor | None:
        """The transactor whose transaction holds the lock; None if it is free."""
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
        args = (transactor.client.name, self._name, waiting,
                *(('a pack', 'at its end') if holder is None else (holder.client.name, holder.meta)))
        if waiting >= WAITING:
            self._loop.throttle.report(log, logging.WARNING, 'waiting', self._name, text, *args)
        else:
            log.debug(text, *args)
        return False

    def release(self, transactor: Transactor) -> None:
        """`transactor` leaves the queue, or gives the lock back to the next one."""
        watched = self._watched.pop(transactor, None)
        if watched is not None:
            watched[0].stop()
            self._idle.append(watched[0])
            self._note_time()
        successor = self._queue.leave(transactor)
        if successor is not None:
            # Through the door: the work of one client ends before that of the next begins.
            self._loop.door(partial(self._grant, successor))
        self._give_turn()

    # ---- a pack's turn ----------------------------------------------------------------------------

    def take_turn(self) -> None:
        """Wait, in the thread of a pack, until nobody holds the lock; nobody gets it before `end_turn`.

        A pack ends with the storage's own lock on commits, for which the loop's thread must not wait (D1).
        """
        self._asked = turn = self._loop.runtime.event()
        self._loop.door(partial(self._pause, turn))
        if not self._has_ended and not self._loop.in_loop_thread():  # else nobody does what the door took
            turn.wait()

    def end_turn(self) -> None:
        """Let others have the lock again; in the thread that took the turn."""
        self._loop.door(self._resume)

    def close(self) -> None:
        """There are no commits any more."""
        self._has_ended = True
        if self._asked is not None:
            self._asked.set()

    def _pause(self, turn: Any) -> None:
        self._turn = turn
        self._queue.pause()
        self._give_turn()

    def _give_turn(self) -> None:
        if self._turn is not None and self._queue.holder is None:
            self._turn.set()

    def _resume(self) -> None:
        self._turn = None
        for successor in self._queue.resume():
            self._grant(successor)

    # -----------------------------------------------------------------------------------------------

    def _grant(self, transactor: Transactor) -> None:
        if not self._queue.holds(transactor):
            return
        if not transactor.client.connected:
            transactor.close()  # it has gone while it waited: on to the next one
            return
        self._locked(transactor)
        transactor.phase.granted()

    def _locked(self, transactor: Transactor) -> None:
        watchdog = self._idle.pop()
        self._watched[transactor] = watchdog, self._loop.runtime.monotonic()
        self._note_time()
        watchdog.start(transactor)

    def _note_time(self) -> None:
        for _, since in self._watched.values():
            self._stats.lock_time = since
            return
        self._stats.lock_time = None
