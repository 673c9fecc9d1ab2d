"""The manager: finds a server among the addresses, keeps one link to it, finds one again.

Attempts, candidates and timers live in the loop's thread.  Any thread asks for the ready link and waits
for it.  A link that was in use is lost in the reader's role; the search for the next one begins in the
loop's thread.  At most one link at a time verifies or touches the cache (C4).
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
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import AF_UNIX, Endpoint
from zeo_clone.loop.throttle import Throttle
from zeo_clone.steps import take_steps

log = logging.getLogger(__name__)

#: The first new attempt comes after this time, in seconds; each further one after twice as long ...
FIRST_PAUSE_S = 0.05
#: ... up to this, unless ``max_disconnect_poll`` says otherwise.
LONGEST_PAUSE_S = 1.0
#: ... or this, where all servers refuse for a reason that will not go away by itself (N18).
REFUSED_PAUSE_S = 10.0
#: While a read-only fallback is in use, a read-write server is looked for this often, in seconds.
UPGRADE_PAUSE_S = 1.0

#: So many times in a minute the log has that a server was found; that it was lost, once (N15).
BURST = 5
#: Characters of a line of the log that has the errors of all addresses (L8).
MAX_LINE = 4000
#: `close` waits this long for a thread that is just processing a message, in seconds.
CLOSE_TIMEOUT_S = 0.8


class ManagerState(enum.Enum):
    """What the manager is doing."""

    IDLE = enum.auto()        # not started yet, or waiting for the next attempt
    SEARCHING = enum.auto()   # attempts are under way
    VERIFYING = enum.auto()   # one link was chosen
    CONNECTED = enum.auto()
    CLOSED = enum.auto()


_S = ManagerState
#: Where one may go from a state.  Closed is for ever.
TABLE = {
    _S.IDLE: {_S.SEARCHING, _S.CLOSED},
    _S.SEARCHING: {_S.IDLE, _S.VERIFYING, _S.CLOSED},
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
        self._lock = loop.runtime.rlock()  # protects the next seven ...
        self._waiting: deque[Any] = deque()  # ... and when they change these locks are released
        self.state = ManagerState.IDLE
        self._ready: Link | None = None
        self._parting: Link | None = None  # was ready, and its loss is being told
        self._active: Link | None = None   # the only link that may touch the cache
        self._chosen: Link | None = None   # waits until the active one is lost
        self._errors: dict[str, Exception] = {}
        self._started = False
        self._throttle = Throttle(loop.runtime.monotonic)
        # Loop thread only:
        self._outage = Outage(loop, self._explain)
        self._trying: set[Link] = set()
        self._fallbacks: list[Link] = []
        self._resolving = 0
        self._failures = 0

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
            self._loop.door(self._search)

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
            for link in (*tuple(self._trying), self._active):  # the copy is atomic
                if link is not None:
                    told.setdefault(str(link.target), link.doing)
            errors = '; '.join(f'{place}: {text}' for place, text in told.items())
        return f' ({errors})' if errors else ''

    def new_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Use other addresses from now on; a present connection is given up."""
        self.addresses = addresses
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
        take_steps('the end of a connection', functools.partial(self._loop.door, self._drop_attempts),
                   *steps)

    # ---- loop thread: searching -----------------------------------------------------------------

    def _search(self) -> None:
        if self._move(ManagerState.SEARCHING):
            self._outage.begin()
            self._try_all()

    def _try_all(self) -> None:
        for address in self.addresses:
            if isinstance(address, str):
                self._try(Target(Endpoint(AF_UNIX or 0, address), None))
                continue
            known = self._loop.runtime.in_numbers(*address)
            if known:
                for endpoint in known:
                    self._try(Target(endpoint, address[0]))
                continue
            self._resolving += 1
            resolve = functools.partial(self._resolve, address)
            if self._options.io_thread:
                # A name server may take its time; the loop serves other storages meanwhile.
                self._loop.runtime.start_thread(resolve, 'zeo_clone name resolution')
            else:
                resolve()
        self._look_around()

    def _resolve(self, address: tuple[str | None, int]) -> None:
        """A thread of its own."""
        try:
            found: Any = self._loop.runtime.resolve(*address)
        except (OSError, UnicodeError) as error:
            found = error
        self._loop.door(functools.partial(self._resolved, address, found))

    def _resolved(self, address: tuple[str | None, int], found: Any) -> None:
        self._resolving -= 1
        if isinstance(found, Exception):
            self._note_error(format_address(address), found)
        else:
            for endpoint in found:
                self._try(Target(endpoint, address[0]))
        self._look_around()

    def _try(self, target: Target) -> None:
        if self.state in (ManagerState.SEARCHING, ManagerState.CONNECTED):
            link = Link(self._loop, target, self._options, self._effects, self._identity, self)
            self._trying.add(link)
            link.connect()

    def _look_around(self) -> None:
        """Nothing to wait for any more: take a read-only server, or pause."""
        if self._resolving or self._trying:
            return
        fallbacks, self._fallbacks = self._fallbacks, []
        if self.state is ManagerState.SEARCHING:
            if fallbacks:
                self._choose(fallbacks.pop(0))
            else:
                self._pause()
        elif self.state is ManagerState.CONNECTED:
            self._plan_upgrade()
        for link in fallbacks:
            link.fail(ClientDisconnected('another server is used'))

    def _pause(self) -> None:
        if not self._move(ManagerState.IDLE):
            return
        longest = self._options.max_poll_s
        with self._lock:
            if self._errors and all(map(is_definite, self._errors.values())):
                longest = max(longest, REFUSED_PAUSE_S)
        pause = min(longest, FIRST_PAUSE_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self._loop.call_later(pause * (0.8 + 0.4 * self._loop.runtime.random()), self._search)

    def _choose(self, link: Link) -> None:
        self._trying.discard(link)
        self._drop_attempts()
        with self._lock:
            active = self._active
            if active is None and self._move(ManagerState.VERIFYING):
                self._active = link
            elif active is not None:
                self._chosen = link  # an upgrade: the read-only link goes first
        if link is self._active:
            link.verify()
        elif active is not None:
            active.fail(ClientDisconnected('a read-write server has been found'))

    def _drop_attempts(self) -> None:
        trying, self._trying = self._trying, set()
        fallbacks, self._fallbacks = self._fallbacks, []
        for link in [*trying, *fallbacks]:
            link.fail(ClientDisconnected('another server is used'))

    def _plan_upgrade(self) -> None:
        link = self._ready
        if link is not None and link.read_only and not self._options.read_only:
            self._loop.call_later(UPGRADE_PAUSE_S, self._upgrade)

    def _upgrade(self) -> None:
        link = self._ready
        if self.state is ManagerState.CONNECTED and link is not None and link.read_only:
            self._try_all()

    def _restart(self) -> None:
        active = self._active
        self._drop_attempts()
        if active is not None:
            active.fail(ClientDisconnected('the addresses of the servers have changed'))
        else:
            self._look_around()

    # ---- of the links -----------------------------------------------------------------------------

    def link_candidate(self, link: Link) -> None:
        """Loop thread: `link` has registered."""
        if link not in self._trying:
            link.fail(ClientDisconnected('another server is used'))
        elif link.read_only and not self._options.read_only:
            self._trying.discard(link)
            self._fallbacks.append(link)
            self._look_around()
        else:
            self._choose(link)

    def link_ready(self, link: Link) -> None:
        """Loop thread: the cache is verified."""
        with self._lock:
            if link is not self._active or not self._move(ManagerState.CONNECTED):
                return
            self._owner.manager_ready(link)
            self._ready = link
            self._errors.clear()
        self._failures = 0
        self._outage.end()
        more = self._throttle.admits(f'connected {link.target} {link.read_only}', burst=BURST)
        log.log(logging.DEBUG if more is None else logging.INFO,
                'connected to the server at %s, storage %r%s%s', link.target, self._options.storage,
                ', read-only' if link.read_only else '', more or '')
        self._plan_upgrade()

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
        self._trying.discard(link)
        if link in self._fallbacks:
            self._fallbacks.remove(link)
        chosen = None
        with self._lock:
            if link is self._chosen:
                self._chosen = None
            if link is self._active:
                chosen, self._chosen = self._chosen, None
                if not self._move(ManagerState.VERIFYING if chosen else ManagerState.SEARCHING):
                    return
                self._active = chosen
        if chosen is not None:
            chosen.verify()
        else:
            self._look_around()

    def _note_error(self, place: str, error: Exception) -> None:
        with self._lock:
            self._errors[place] = error


def _text(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error)[:500]}'
