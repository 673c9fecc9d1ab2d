"""The manager: keeps one link to a server, and has one searched for whenever there is none.

Any thread asks for the ready link and waits for it.  A link that was in use is lost in the reader's role;
the search for the next one begins in the loop's thread.  Which link is what, is decided in `places`, which
servers are tried in `search`; here it is done and told.
"""
from __future__ import annotations

import functools
import logging
from typing import Any, Protocol

from zeo_clone.addresses import Address, format_address
from zeo_clone.client.attempt import Registered
from zeo_clone.client.effects import Effects
from zeo_clone.client.link import Identity, Link
from zeo_clone.client.options import Options
from zeo_clone.client.outage import Outage
from zeo_clone.client.places import ManagerState, Places
from zeo_clone.client.search import Search, describe
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.core import Loop
from zeo_clone.loop.throttle import Throttle
from zeo_clone.steps import take_steps
from zeo_clone.wording import format_age, format_seconds

log = logging.getLogger(__name__)

#: So many times in a minute the log has that a server was found; that it was lost, once (N15).
BURST = 5
#: Characters of a line of the log that has the errors of all addresses (L8).
MAX_LINE = 4000
#: `close` waits this long for a thread that is just processing a message, in seconds.
CLOSE_TIMEOUT_S = 0.8


class ManagerOwner(Protocol):
    """What a manager tells the storage."""

    def manager_starts(self) -> None:
        """The loop has to run from now on."""

    def manager_ready(self, link: Link) -> None:
        """`link` will be used from now on."""

    def manager_usable(self) -> None:
        """Calls can be made from now on.  After `manager_ready`."""

    def manager_lost(self, link: Link) -> None:
        """The link in use has gone.  In the reader's role."""

    def link_info(self, link: Link, info: dict[str, Any]) -> None:
        """New facts about the storage, straight from `link`, which need not be the one in use."""


class Manager:
    """Keeps a ClientStorage connected."""

    def __init__(self, options: Options, loop: Loop, effects: Effects, identity: Identity,
                 owner: ManagerOwner) -> None:
        self.addresses = options.addresses
        self.places = Places(loop.runtime)
        self._options = options
        self._loop = loop
        self._effects = effects
        self._identity = identity
        self._owner = owner
        self.link_info = owner.link_info
        self._start_lock = loop.runtime.lock()  # protects _started
        self._started = False
        self._throttle = Throttle(loop.runtime.monotonic)
        self._outage = Outage(loop, self._explain)  # loop thread only
        self._search = Search(options, loop, self._make_link, self._found)

    def __repr__(self) -> str:
        return f'<Manager {self.places!r}>'

    # ---- any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to search.  May be called twice."""
        with self._start_lock:
            if self._started:
                return
            self._owner.manager_starts()  # raises RuntimeError if there can be no more threads
            self._started = True
        self._loop.door(self._begin)

    @property
    def asleep(self) -> bool:
        """After a fork, until a link is asked for."""
        return not self._started

    @property
    def ready(self) -> Link | None:
        """The link in use, or None while there is none."""
        return self.places.ready

    def link(self, timeout_s: float) -> Link:
        """The ready link; waits for it.  Raises `ClientDisconnected` after `timeout_s` seconds."""
        link = self.places.usable()
        if link is not None:
            return link
        if not self._started and not self.places.closed:
            self.start()  # the first use after a fork
        try:
            return self._wait_for_link(timeout_s)
        finally:
            if not self._options.io_thread:
                self._loop.wake()  # the next thread that wants to turn the loop: it need not any more

    def _wait_for_link(self, timeout_s: float) -> Link:
        places, now = self.places, self._loop.runtime.monotonic
        if self._options.io_thread and self._loop.in_loop_thread():
            raise ClientDisconnected('there is no connection, and a callback in the I/O thread cannot wait'
                                     ' for one: it is this thread that looks for a server')
        deadline = now() + timeout_s
        while True:
            left = deadline - now()
            if self._options.io_thread:
                places.wait(left)
            elif places.usable() is None and not places.closed and left > 0:
                self._loop.turn(left)
            link = places.usable()
            if link is not None:
                return link
            if places.closed:
                raise ClientDisconnected('the storage is closed')
            if left <= 0:
                raise ClientDisconnected(
                    f'{self._complaint()} within {format_seconds(timeout_s)}{self._reasons()}')

    def _complaint(self) -> str:
        return f'no connection to a server at {", ".join(map(format_address, self.addresses))}'

    def _reasons(self) -> str:
        told, active = self._search.news(), self.places.active
        if active is not None:
            told.setdefault(str(active.target), active.doing)
        errors = '; '.join(f'{place}: {text}' for place, text in told.items())
        return f' ({errors})' if errors else ''

    def new_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Use other addresses from now on, whatever is under way: nobody else is asked any more (N16)."""
        self.addresses = addresses
        for link in self.places.move_on():
            link.fail(ClientDisconnected('the addresses of the servers have changed'))
        self._loop.door(self._restart)

    def close(self) -> None:
        """Give up the link and stop searching.  Idempotent."""
        new, links = self.places.close()
        if not new:
            return
        error = ClientDisconnected('the storage is closed')
        take_steps('the end of a connection', functools.partial(self._loop.door, self._search.stop),
                   *[functools.partial(link.fail, error) for link in links],
                   *[functools.partial(link.wait_until_gone, CLOSE_TIMEOUT_S) for link in links])

    # ---- loop thread: of the search -------------------------------------------------------------

    def _begin(self) -> None:
        if self.places.begin():
            self._outage.begin()
            self._search.look_at(self.addresses)
            self._search.begin()

    def _make_link(self, registered: Registered) -> Link:
        return Link(self._loop, registered, self._options, self._effects, self._identity, self)

    def _found(self, link: Link) -> None:
        """The best that has been found."""
        self._search.stop()
        who = self.places.choose(link)
        if who is link:
            link.verify()
        elif who is not None:
            who.fail(ClientDisconnected('a read-write server has been found'))
        else:
            link.fail(ClientDisconnected('it is not wanted any more'))

    def _restart(self) -> None:
        """There are new addresses.  An active link has been told to go; when it has, the search begins."""
        self.places.moved()
        self._search.stop()
        self._search.look_at(self.addresses)
        if self.places.state is ManagerState.SEARCHING:
            self._search.begin()

    def _explain(self, elapsed_s: float) -> str | None:
        """Called by the outage: what the log has about it (N13)."""
        if self.places.state in (ManagerState.CONNECTED, ManagerState.CLOSED):
            return None
        text = (f'storage {self._options.storage!r}: {self._complaint()} for {format_age(elapsed_s)}'
                f'{self._reasons()}')
        return ' '.join(text.split())[:MAX_LINE]

    # ---- of the links -----------------------------------------------------------------------------

    def link_ready(self, link: Link) -> None:
        """Loop thread: the cache is verified."""
        if link is not self.places.active:
            return
        self._owner.manager_ready(link)
        if not self.places.verified(link):
            return
        self._owner.manager_usable()
        self._search.satisfied(link)
        self._outage.end()
        more = self._throttle.admits(f'connected {link.target} {link.read_only}', burst=BURST)
        log.log(logging.DEBUG if more is None else logging.INFO,
                'connected to the server at %s, storage %r%s%s', link.target, self._options.storage,
                ', read-only' if link.read_only else '', more or '')

    def link_lost(self, link: Link, error: Exception) -> None:
        """Reader's role, or the loop's thread for one that was never in use."""
        # Every step may be done again, if a signal's exception ends this.
        in_use = self.places.part(link)
        self._search.note_error(str(link.target), error)
        try:
            if in_use:
                self._warn('the connection to the server at %s was lost: %s%s', link, error)
                self._effects.lost(error)
                self._owner.manager_lost(link)
                self.places.parted()
            elif link is self.places.active and not isinstance(error, ClientDisconnected):
                self._warn('the server at %s cannot be used: %s%s', link, error)
        finally:
            self._loop.door(functools.partial(self._gone, link))

    def _warn(self, message: str, link: Link, error: Exception) -> None:
        more = self._throttle.admits(f'{message} {link.target}')
        log.log(logging.DEBUG if more is None else logging.WARNING, message, link.target, describe(error),
                more or '')

    def _gone(self, link: Link) -> None:
        """Loop thread: `link` has gone."""
        was_active, successor = self.places.gone(link)
        if successor is not None:
            successor.verify()
        elif was_active:
            self._outage.begin()
            self._search.resume()
        else:
            self._search.lost(link)
