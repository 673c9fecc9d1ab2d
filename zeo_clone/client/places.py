"""The places of a manager's links: who may touch the cache, who is used, who comes next (C4).

A decision is taken under the lock and returned; whoever asked acts on it outside.  Any thread.  The
invariant is written down in `complaints`::

    state       active    ready                      chosen
    ---------   -------   ------------------------   -----------------------------------------------
    IDLE        -         -                          -
    SEARCHING   -         -                          -
    VERIFYING   a link    -                          -
    CONNECTED   a link    it; none while it is lost  perhaps another, for which the active one is to go
    CLOSED      perhaps   -                          -

*Parting* is a link that was in use, from the moment in which it is not ready any more until its loss has been
told.
"""
from __future__ import annotations

import enum
from collections import deque
from typing import Any

from zeo_clone.client.link import Link
from zeo_clone.loop.runtime import Runtime


class ManagerState(enum.Enum):
    """What the manager is doing."""

    IDLE = enum.auto()        # not started yet
    SEARCHING = enum.auto()   # attempts are under way, or planned
    VERIFYING = enum.auto()   # one link was chosen
    CONNECTED = enum.auto()
    CLOSED = enum.auto()


_S = ManagerState
#: Where one may go from a state.  Closed is for ever.
TABLE = {
    _S.IDLE: {_S.SEARCHING, _S.CLOSED},
    _S.SEARCHING: {_S.VERIFYING, _S.CLOSED},
    _S.VERIFYING: {_S.SEARCHING, _S.CONNECTED, _S.CLOSED},
    _S.CONNECTED: {_S.SEARCHING, _S.VERIFYING, _S.CLOSED},
    _S.CLOSED: set(),
}


class Places:
    """The places of the links of one manager."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # Not a condition: that is Python code, in which a signal's exception could leave it locked.
        self._lock = runtime.rlock()  # protects the places of links, and who waits ...
        self._waiting: deque[Any] = deque()  # ... and when the state changes these locks are released
        self.state = ManagerState.IDLE
        self.ready: Link | None = None   # the link in use
        self.active: Link | None = None  # the only link that may touch the cache
        self._parting: Link | None = None
        self._chosen: Link | None = None  # waits until the active one is lost
        self._moving = False  # there are new addresses: nothing that was begun before is used any more
        self._away_since: float | None = runtime.monotonic()  # None while there is a link in use

    def __repr__(self) -> str:
        return f'<Places {self.state.name}, active: {self.active!r}>'

    def complaints(self) -> list[str]:
        """Where the table above, and what belongs to it, is not true; nothing, at any time."""
        with self._lock:
            state, active, ready, chosen = self.state, self.active, self.ready, self._chosen
            connected = state is ManagerState.CONNECTED
            busy = connected or state is ManagerState.VERIFYING
            rules = {
                'there is an active link': active is not None or not busy,
                'there is none': active is None or busy or state is ManagerState.CLOSED,
                'who is ready is active': ready is None or connected and ready is active,
                'who is parting is not ready': self._parting is None or self._parting is not ready,
                'who is chosen waits for another': chosen is None or connected and chosen is not active,
            }
        return [rule for rule, holds in rules.items() if not holds]

    def _move(self, state: ManagerState) -> bool:
        """Under the lock.  The one function that changes the state; False if that is not possible now."""
        possible = state in TABLE[self.state]
        if possible:
            self.state = state
            while self._waiting:
                self._waiting.popleft().release()
        return possible

    # ---- waiting ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Is the manager closed?"""
        return self.state is ManagerState.CLOSED

    def usable(self) -> Link | None:
        """The ready link, unless a send has just failed on it and the loop is about to bury it."""
        link = self.ready
        return None if link is None or link.channel.fate is not None else link

    def away_s(self) -> float | None:
        """For how many seconds there has been no link; None while there is one."""
        since = self._away_since
        return None if since is None else max(0.0, self._runtime.monotonic() - since)

    def is_read_only(self) -> bool:
        """Is the link in use for reading only?"""
        link = self.ready
        return link is not None and link.read_only

    def wait(self, timeout_s: float) -> None:
        """Unless there is a usable link: until something changes."""
        change = self._runtime.lock()
        change.acquire()
        self._waiting.append(change)
        with self._lock:
            wanted = self.usable() is None and not self.closed and timeout_s > 0
        if wanted:
            change.acquire(timeout=timeout_s)
        with self._lock:
            if change in self._waiting:
                self._waiting.remove(change)

    # ---- what happens: loop thread or reader's role, but for `move_on` and `close` -------------------

    def begin(self) -> bool:
        """The search begins, unless it is over."""
        with self._lock:
            return self._move(ManagerState.SEARCHING)

    def choose(self, link: Link) -> Link | None:
        """`link` has been found.  Who has to act: itself, for it is the active one now; the active one, which
        is to go; or nobody, for it is not wanted any more."""
        with self._lock:
            if self._moving:
                return None
            if self.state is ManagerState.CONNECTED and self._chosen is None:
                self._chosen = link
                return self.active
            if self.active is None and self._move(ManagerState.VERIFYING):
                self.active = link
                return link
            return None

    def verified(self, link: Link) -> bool:
        """`link` can be used, if it is still wanted."""
        with self._lock:
            wanted = link is self.active and self._move(ManagerState.CONNECTED)
            if wanted:
                self.ready, self._away_since = link, None
            return wanted

    def part(self, link: Link) -> bool:
        """`link` is being lost.  Was it in use?  The same is said again, until `parted`."""
        with self._lock:
            if link is self.ready:
                self._parting, self.ready, self._away_since = link, None, self._runtime.monotonic()
            return link is self._parting

    def parted(self) -> None:
        """The loss of who was in use has been told."""
        with self._lock:
            self._parting = None

    def gone(self, link: Link) -> tuple[bool, Link | None]:
        """`link` is no more.  Was it the active one, and it is not over?  And who is active now."""
        with self._lock:
            if link is self._chosen:
                self._chosen = None
            if link is not self.active or self.closed:
                return False, None
            self.active, self._chosen = self._chosen, None
            self._move(ManagerState.SEARCHING if self.active is None else ManagerState.VERIFYING)
            return True, self.active

    def move_on(self) -> list[Link]:
        """There are new addresses.  Links that have to go; until `moved` no other is wanted."""
        with self._lock:
            self._moving = True
            links = [link for link in (self.active, self._chosen) if link is not None]
            self._chosen = None
            return links

    def moved(self) -> None:
        """The addresses are the new ones: links are wanted again."""
        with self._lock:
            self._moving = False

    def close(self) -> tuple[bool, list[Link]]:
        """It is over.  Is that new?  And links that have to go, the active one first."""
        with self._lock:
            new = self._move(ManagerState.CLOSED)
            links = [link for link in (self.active, self._chosen) if link is not None]
            self.ready = self._chosen = None
            if self._away_since is None:
                self._away_since = self._runtime.monotonic()
            return new, links
