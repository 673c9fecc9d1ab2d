"""The manager: keeps one link to a server, and has one searched for whenever there is none.

Any thread asks for the ready link and waits for it.  A link that was in use is lost in the reader's role;
the search for the next one begins in the loop's thread.  At most one link at a time verifies or touches the
cache (C4).
"""
from __future__ import annotations

import enum
import functools
import logging
from collections import deque
from typing import Any, Protocol

from zeo_clone.addresses import Address, format_address
from zeo_clone.client.effects import Effects
from zeo_clone.client.identity import Identity
from zeo_clone.client.link import Link, Target
from zeo_clone.client.options import Options
from zeo_clone.client.outage import Outage, is_definite
from zeo_clone.client.search import Search, Wish
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.core import Loop
from zeo_clone.loop.throttle import Throttle
from zeo_clone.steps import take_steps

log = logging.getLogger(__name__)

#: So many times in a minute the log has that a server was found; that it was lost, once (N15).
BURST = 5
#: Characters of a line of the log that has the errors of all addresses (L8).
MAX_LINE = 4000
#: `close` waits this long for a thread that is just processing a message, in seconds.
CLOSE_TIMEOUT_S = 0.8


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


class ManagerOwner(Protocol):
    """What a manager tells the storage."""

    def manager_starts(self) -> None:
        """The loop has to run from now on."""

    def manager_ready(self, link: Link) -> None:
        """`link` will be used from now on."""

    def manager_lost(self, link: Link) -> None:
        """The link in use has gone.  In the reader's role."""

    def manager_info(self, info: dict[str, Any]) -> None:
        """New facts about the storage."""


class Manager:
    """Keeps a ClientStorage connected."""

    def __init__(self, options: Options, loop: Loop, effects: Effects, identity: Identity,
                 owner: ManagerOwner) -> None:
        self.addresses = options.addresses
        self._options = options
        self._loop = loop
        self._effects = effects
        self._identity = identity
        self._owner = owner
        # Not a condition: that is Python code, in which a signal's exception could leave it locked.
        self._lock = loop.runtime.rlock()  # protects the next eight ...
        self._waiting: deque[Any] = deque()  # ... and when they change these locks are released
        self.state = ManagerState.IDLE
        self._ready: Link | None = None
        self._parting: Link | None = None  # was ready, and its loss is being told
        self._active: Link | None = None   # the only link that may touch the cache
        self._chosen: Link | None = None   # waits until the active one is lost
        self._moving = False  # there are new addresses: nothing that was begun before is used any more
        self._errors: dict[str, Exception] = {}
        self._started = False
        self._throttle = Throttle(loop.runtime.monotonic)
        self._outage = Outage(loop, self._explain)  # loop thread only
        self._search = Search(options, loop, self)

    def __repr__(self) -> str:
        return f'<Manager {self.state.name} {self._ready!r}>'

    def _move(self, state: ManagerState) -> bool:
        """The one function that changes the state; False if that is not possible now."""
        with self._lock:
            possible = state in TABLE[self.state]
            if possible:
                self.state = state
                while self._waiting:
                    self._waiting.popleft().release()
            return possible

    # ---- any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to search.  May be called twice."""
        with self._lock:
            started, self._started = self._started, True
        if not started:
            self._owner.manager_starts()
            self._loop.door(self._begin)

    @property
    def asleep(self) -> bool:
        """After a fork, until a link is asked for."""
        return not self._started

    @property
    def ready(self) -> Link | None:
        """The link in use, or None while there is none."""
        return self._ready

    def link(self, timeout_s: float) -> Link:
        """The ready link; waits for it.  Raises `ClientDisconnected` after `timeout_s` seconds."""
        link = self._usable()
        if link is not None:
            return link
        if not self._started and self.state is not ManagerState.CLOSED:
            self.start()  # the first use after a fork
        try:
            return self._wait_for_link(timeout_s)
        finally:
            if not self._options.io_thread:
                self._loop.wake()  # the next thread that wants to turn the loop: it need not any more

    def _wait_for_link(self, timeout_s: float) -> Link:
        deadline = self._loop.runtime.monotonic() + timeout_s
        while True:
            left = deadline - self._loop.runtime.monotonic()
            if self._options.io_thread:
                self._wait(left)
            elif self._usable() is None and self.state is not ManagerState.CLOSED and left > 0:
                self._loop.turn(left)
            link = self._usable()
            if link is not None:
                return link
            if self.state is ManagerState.CLOSED:
                raise ClientDisconnected('the storage is closed')
            if left <= 0:
                raise ClientDisconnected(self._complaint(timeout_s))

    def _wait(self, timeout_s: float) -> None:
        """Unless there is a link: until something changes."""
        change = self._loop.runtime.lock()
        change.acquire()
        self._waiting.append(change)
        with self._lock:
            wanted = self._usable() is None and self.state is not ManagerState.CLOSED and timeout_s > 0
        if wanted:
            change.acquire(timeout=timeout_s)
        with self._lock:
            if change in self._waiting:
                self._waiting.remove(change)

    def _usable(self) -> Link | None:
        """The ready link, unless a send has just failed on it and the loop is about to bury it."""
        link = self._ready
        return None if link is None or link.channel is None or link.channel.fate is not None else link

    def _complaint(self, timeout_s: float) -> str:
        where = ', '.join(map(format_address, self.addresses))
        return f'no connection to a server at {where} within {timeout_s:g} s{self._reasons()}'

    def _explain(self, elapsed_s: float) -> str | None:
        """Of the outage: what the log has about it (N13)."""
        if self.state in (ManagerState.CONNECTED, ManagerState.CLOSED):
            return None
        where = ', '.join(map(format_address, self.addresses))
        text = (f'storage {self._options.storage!r}: no connection to a server at {where} for '
                f'{elapsed_s:.0f} s{self._reasons()}')
        return ' '.join(text.split())[:MAX_LINE]

    def _reasons(self) -> str:
        with self._lock:
            told = {place: _text(error) for place, error in self._errors.items()}
            for place, doing in self._search.under_way():
                told.setdefault(place, doing)
            if self._active is not None:
                told.setdefault(str(self._active.target), self._active.doing)
            errors = '; '.join(f'{place}: {text}' for place, text in told.items())
        return f' ({errors})' if errors else ''

    def new_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Use other addresses from now on, whatever is under way: nobody else is asked any more (N16)."""
        with self._lock:
            self.addresses = addresses
            self._moving = True
            active, chosen, self._chosen = self._active, self._chosen, None
        for link in active, chosen:
            if link is not None:
                link.fail(ClientDisconnected('the addresses of the servers have changed'))
        self._loop.door(self._restart)

    def close(self) -> None:
        """Give up the link and stop searching.  Idempotent."""
        if not self._move(ManagerState.CLOSED):
            return
        self._ready = None
        active = self._active
        steps = [] if active is None else [
            functools.partial(active.fail, ClientDisconnected('the storage is closed')),
            functools.partial(active.wait_until_gone, CLOSE_TIMEOUT_S)]
        take_steps('the end of a connection', functools.partial(self._loop.door, self._search.stop),
                   *steps)

    # ---- loop thread: of the search -------------------------------------------------------------

    def _begin(self) -> None:
        if self._move(ManagerState.SEARCHING):
            self._outage.begin()
            self._search.go_on()

    @property
    def wants(self) -> Wish:
        """Of the search: what is looked for?"""
        if self.state is ManagerState.SEARCHING:
            return Wish.ANY
        link = self._ready
        if (self.state is ManagerState.CONNECTED and self._chosen is None
                and link is not None and link.read_only and not self._options.read_only):
            return Wish.WRITABLE
        return Wish.NONE

    @property
    def refused(self) -> bool:
        """Of the search: do all servers refuse for a reason that will not go away by itself?"""
        with self._lock:
            return bool(self._errors) and all(map(is_definite, self._errors.values()))

    def note_error(self, place: str, error: Exception) -> None:
        """Of the search: `place` cannot be tried."""
        with self._lock:
            self._errors[place] = error

    def make_link(self, target: Target) -> Link:
        """Of the search: an attempt."""
        return Link(self._loop, target, self._options, self._effects, self._identity, self)

    def choose(self, link: Link) -> None:
        """Of the search: the best that has been found."""
        self._search.stop()
        with self._lock:
            active = self._active
            if not self._moving:
                if active is not None:
                    self._chosen = link  # an upgrade: the read-only link goes first
                elif self._move(ManagerState.VERIFYING):
                    self._active = link
        if link is self._active:
            link.verify()
        elif link is self._chosen and active is not None:
            active.fail(ClientDisconnected('a read-write server has been found'))
        else:
            link.fail(ClientDisconnected('it is not wanted any more'))

    def _restart(self) -> None:
        """There are new addresses.  An active link has been told to go; when it has, the search begins."""
        with self._lock:
            self._moving = False
            self._errors.clear()
        self._search.stop()
        if self.state is ManagerState.SEARCHING:
            self._search.go_on()

    # ---- of the links -----------------------------------------------------------------------------

    def link_candidate(self, link: Link) -> None:
        """Loop thread: `link` has registered."""
        self._search.registered(link)

    def link_ready(self, link: Link) -> None:
        """Loop thread: the cache is verified."""
        with self._lock:
            if link is not self._active or not self._move(ManagerState.CONNECTED):
                return
            self._owner.manager_ready(link)
            self._ready = link
            self._errors.clear()
        self._outage.end()
        more = self._throttle.admits(f'connected {link.target} {link.read_only}', burst=BURST)
        log.log(logging.DEBUG if more is None else logging.INFO,
                'connected to the server at %s, storage %r%s%s', link.target, self._options.storage,
                ', read-only' if link.read_only else '', more or '')
        self._search.begin_anew()

    def link_info(self, link: Link, info: dict[str, Any]) -> None:
        """Reader's role: new facts."""
        if link is self._ready:
            self._owner.manager_info(info)

    def link_lost(self, link: Link, error: Exception) -> None:
        """Reader's role, or the loop's thread for one that was never in use."""
        # Every step may be done again, if a signal's exception ends this.
        with self._lock:
            if link is self._ready:
                self._parting, self._ready = link, None
            if self.state is not ManagerState.CLOSED:
                self._errors[str(link.target)] = error
        try:
            if link is self._parting:
                self._warn('the connection to the server at %s was lost: %s%s', link, error)
                self._effects.lost(error)
                self._owner.manager_lost(link)
                self._parting = None
            elif link is self._active and not isinstance(error, ClientDisconnected):
                self._warn('the server at %s cannot be used: %s%s', link, error)
        finally:
            self._loop.door(functools.partial(self._bereaved, link))

    def _warn(self, message: str, link: Link, error: Exception) -> None:
        more = self._throttle.admits(f'{message} {link.target}')
        log.log(logging.DEBUG if more is None else logging.WARNING, message, link.target, _text(error),
                more or '')

    def _bereaved(self, link: Link) -> None:
        """Loop thread: `link` has gone."""
        chosen = None
        with self._lock:
            used = link is self._active
            if link is self._chosen:
                self._chosen = None
            if used:
                chosen, self._chosen = self._chosen, None
                if not self._move(ManagerState.VERIFYING if chosen else ManagerState.SEARCHING):
                    return
                self._active = chosen
        if chosen is not None:
            chosen.verify()
        else:
            self._search.lost(link, used)


def _text(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error)[:500]}'
