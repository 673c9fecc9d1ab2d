"""The search: attempts at all addresses, until the manager has what it wants.  Loop thread.

It goes in rounds: each tries all places where no attempt is under way.  The next round is planned as soon as
one attempt has come to nothing, so that a place that says nothing, or a name that nobody can look up, delays
no other (N17).  A server that is read-only is chosen only if nothing better has been found for a while.
"""
from __future__ import annotations

import enum
import functools
from collections.abc import Iterator
from typing import Any, Protocol

from zeo_clone.addresses import Address, format_address
from zeo_clone.client.link import Link, Target
from zeo_clone.client.options import Options
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import AF_UNIX, Endpoint
from zeo_clone.loop.timers import Timer

#: The first new attempt comes after this time, in seconds; each further one after twice as long ...
FIRST_PAUSE_S = 0.05
#: ... up to this, unless ``max_disconnect_poll`` says otherwise.
LONGEST_PAUSE_S = 1.0
#: ... or this, where all servers refuse for a reason that will not go away by itself (N18).
REFUSED_PAUSE_S = 10.0
#: While a read-only fallback is in use, a read-write server is looked for this often, in seconds.
UPGRADE_PAUSE_S = 1.0
#: A read-only fallback that has been found waits so long for attempts elsewhere, in seconds.
FALLBACK_PATIENCE_S = 1.0


class Wish(enum.Enum):
    """What is looked for."""

    NONE = enum.auto()
    ANY = enum.auto()
    WRITABLE = enum.auto()  # instead of a read-only server, which is in use


class SearchOwner(Protocol):
    """What a search asks and tells its manager."""

    addresses: tuple[Address, ...]

    @property
    def wants(self) -> Wish:
        """What is looked for just now?"""

    @property
    def refused(self) -> bool:
        """Do all servers refuse for a reason that will not go away by itself?"""

    def make_link(self, target: Target) -> Link:
        """An attempt; what it finds out it tells the manager."""

    def choose(self, link: Link) -> None:
        """The best server that has been found."""

    def note_error(self, place: str, error: Exception) -> None:
        """Nothing can be tried at `place`."""


class Search:
    """The attempts of one manager."""

    def __init__(self, options: Options, loop: Loop, owner: SearchOwner) -> None:
        self._options = options
        self._loop = loop
        self._owner = owner
        self._trying: dict[Link, None] = {}
        self._fallbacks: list[Link] = []  # registered, and read-only
        self._resolving: dict[Address, object] = {}  # names that are being looked up: a mark of this search
        self._next: Timer | None = None  # the next round
        self._patience: Timer | None = None  # for what may be better than the fallbacks
        self._failures = 0  # rounds in which nothing was found

    def under_way(self) -> Iterator[tuple[str, str]]:
        """Any thread: places, and what is waited for there."""
        for link in tuple(self._trying):  # the copies are atomic
            yield str(link.target), link.doing
        for address in tuple(self._resolving):
            yield format_address(address), 'its name is being looked up'

    def go_on(self) -> None:
        """A round: try all places where no attempt is under way."""
        self._next = None
        if self._owner.wants is Wish.NONE:
            return
        for address in self._owner.addresses:
            if isinstance(address, str):
                self._try(Target(Endpoint(AF_UNIX or 0, address), None))
                continue
            known = self._loop.runtime.in_numbers(*address)
            for endpoint in known:
                self._try(Target(endpoint, address[0]))
            if not known and address not in self._resolving:
                self._look_up(address)
        if not (self._resolving or self._trying):
            self._look_around()

    def begin_anew(self) -> None:
        """A server has been found: from now on pauses are short again; perhaps a better one is looked for."""
        self._failures = 0
        self._plan()

    def registered(self, link: Link) -> None:
        """`link` has come as far as being of use."""
        if link not in self._trying:
            link.fail(ClientDisconnected('another server is used'))
            return
        del self._trying[link]
        if not link.read_only or self._options.read_only:
            self._owner.choose(link)
            return
        if self._owner.wants is Wish.ANY:
            self._fallbacks.append(link)
        else:
            link.fail(ClientDisconnected('another server is used'))  # it is no better than that
        self._look_around()

    def lost(self, link: Link, used: bool) -> None:
        """`link` has gone: an attempt, one that was given up, or that which was `used`."""
        if used and self._next is not None:
            self._next.cancel()  # it was to find a better one, in a while
            self._next = None
        if link in self._trying:
            del self._trying[link]
        elif link in self._fallbacks:
            self._fallbacks.remove(link)
        elif not used:
            return
        self._look_around()

    def stop(self) -> None:
        """Give up all attempts.  The next round begins a search from the start."""
        for timer in self._next, self._patience:
            if timer is not None:
                timer.cancel()
        self._next = self._patience = None
        self._resolving.clear()
        trying, self._trying = self._trying, {}
        fallbacks, self._fallbacks = self._fallbacks, []
        for link in (*trying, *fallbacks):
            link.fail(ClientDisconnected('another server is used'))

    # ---- attempts -------------------------------------------------------------------------------

    def _look_up(self, address: tuple[str | None, int]) -> None:
        mark = self._resolving[address] = object()
        resolve = functools.partial(self._resolve, address, mark)
        if self._options.io_thread or len(self._owner.addresses) > 1:
            # A name server may take its time; other storages and addresses are served meanwhile.
            self._loop.runtime.start_thread(resolve, 'zeo_clone name resolution')
        else:
            resolve()

    def _resolve(self, address: tuple[str | None, int], mark: object) -> None:
        """A thread of its own."""
        try:
            found: Any = self._loop.runtime.resolve(*address)
        except (OSError, UnicodeError) as error:
            found = error
        self._loop.door(functools.partial(self._resolved, address, mark, found))

    def _resolved(self, address: tuple[str | None, int], mark: object, found: Any) -> None:
        if self._resolving.get(address) is not mark:
            return  # it is not wanted any more (N16)
        del self._resolving[address]
        if isinstance(found, Exception):
            self._owner.note_error(format_address(address), found)
            found = []
        for endpoint in found:
            self._try(Target(endpoint, address[0]))
        if not found:
            self._look_around()

    def _try(self, target: Target) -> None:
        if all(link.target != target for link in (*self._trying, *self._fallbacks)):
            link = self._owner.make_link(target)
            self._trying[link] = None
            link.connect()

    # ---- what then ------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """An attempt has come to nothing, or to a read-only server."""
        if self._fallbacks:
            if not (self._resolving or self._trying):
                self._settle_for_less()
                return
            if self._patience is None:
                self._patience = self._loop.call_later(FALLBACK_PATIENCE_S, self._settle_for_less)
        self._plan()

    def _settle_for_less(self) -> None:
        self._patience = None
        if self._fallbacks:
            self._owner.choose(self._fallbacks.pop(0))

    def _plan(self) -> None:
        """Plan the next round, if there is to be one."""
        wish = self._owner.wants
        if self._next is not None or wish is Wish.NONE:
            return
        pause = UPGRADE_PAUSE_S
        if wish is Wish.ANY:
            longest = self._options.max_poll_s
            if self._owner.refused:
                longest = max(longest, REFUSED_PAUSE_S)
            pause = min(longest, FIRST_PAUSE_S * 2 ** min(self._failures, 16))
            pause *= 0.8 + 0.4 * self._loop.runtime.random()
            self._failures += 1
        self._next = self._loop.call_later(pause, self.go_on)
