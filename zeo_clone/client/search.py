"""The search: attempts at all addresses, for whatever the manager wishes.  Loop thread.

It is told what to look for, and gives out one candidate after the other; it asks nothing back.

It goes in rounds: each tries all places where no attempt is under way.  The next round is planned as soon as
one attempt has come to nothing, so that a place that says nothing, or a name that nobody can look up, delays
no other (N17).  A server that is read-only is chosen only if nothing better has been found for a while.
Where clients are to spread over servers, the order of a round is random, and the first place of a search has
the first round for itself: else the nearest server would get all clients.
"""
from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zeo_clone.addresses import Address, format_address
from zeo_clone.client.attempt import Attempt, Registered, Target
from zeo_clone.client.link import Link
from zeo_clone.client.options import Options
from zeo_clone.client.outage import is_definite
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


class Search:
    """The attempts of one manager.

    `make_link` makes a link of what an attempt has come to, `found` gets the best that there is.
    """

    def __init__(self, options: Options, loop: Loop, make_link: Callable[[Registered], Link],
                 found: Callable[[Link], None]) -> None:
        self._options = options
        self._loop = loop
        self._make_link = make_link
        self._found = found
        self._wish = Wish.NONE
        self._addresses: tuple[Address, ...] = ()
        self._errors: dict[str, Exception] = {}  # the last ones by place; single operations on it are atomic
        self._trying: dict[Attempt, None] = {}
        self._fallbacks: list[Link] = []  # registered, and read-only
        self._resolving: dict[Address, object] = {}  # names that are being looked up: a mark of this search
        self._next: Timer | None = None  # the next round
        self._patience: Timer | None = None  # for what may be better than the fallbacks
        self._failures = 0  # rounds in which nothing was found
        self._is_first = True  # the next round is the first one of a search

    # ---- any thread -----------------------------------------------------------------------------

    def note_error(self, place: str, error: Exception) -> None:
        """What comes, or came, of `place`."""
        self._errors[place] = error

    def news(self) -> dict[str, str]:
        """The last error of each place, in words, or what is waited for."""
        told = {place: describe(error) for place, error in dict(self._errors).items()}
        for place, doing in self._under_way():
            told.setdefault(place, doing)
        return told

    def _under_way(self) -> Iterator[tuple[str, str]]:
        for attempt in tuple(self._trying):  # the copies are atomic
            yield str(attempt.target), attempt.doing
        for address in tuple(self._resolving):
            yield format_address(address), 'its name is being looked up'

    # ---- loop thread: of the manager ------------------------------------------------------------

    def look_at(self, addresses: tuple[Address, ...]) -> None:
        """These are the places from now on; what was heard of others does not count."""
        self._addresses = addresses
        self._errors.clear()

    def begin(self) -> None:
        """Look for any server, now."""
        self._wish = Wish.ANY
        self._is_first = True
        self.go_on()

    def resume(self) -> None:
        """The server in use, or to be used, has gone."""
        self._wish = Wish.ANY
        self._is_first = True
        if self._next is not None:
            self._next.cancel()  # it was to find a better one, in a while
            self._next = None
        self._look_around()

    def satisfied(self, link: Link) -> None:
        """`link` is used.  Pauses are short again; if it is read-only, a better one may be looked for."""
        self._errors.clear()
        self._failures = 0
        if link.read_only and not self._options.read_only:
            self._wish = Wish.WRITABLE
            self._plan()

    def lost(self, link: Link) -> None:
        """`link`, which has gone, was perhaps a fallback."""
        if link in self._fallbacks:
            self._fallbacks.remove(link)
            self._look_around()

    def stop(self) -> None:
        """Look for nothing, give up all attempts."""
        self._wish = Wish.NONE
        for timer in self._next, self._patience:
            if timer is not None:
                timer.cancel()
        self._next = self._patience = None
        self._resolving.clear()
        trying, self._trying = self._trying, {}
        fallbacks, self._fallbacks = self._fallbacks, []
        given_up: list[Attempt | Link] = [*trying, *fallbacks]
        for one in given_up:
            one.fail(ClientDisconnected('another server is used'))

    # ---- rounds ---------------------------------------------------------------------------------

    def go_on(self) -> None:
        """A round: try all places where no attempt is under way."""
        self._next = None
        if self._wish is Wish.NONE:
            return
        for address in self._places():
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

    def _places(self) -> Sequence[Address]:
        """Those of this round, in its order."""
        is_first, self._is_first = self._is_first, False
        if not self._options.spread:
            return self._addresses
        random = self._loop.runtime.random
        places = sorted(self._addresses, key=lambda _: random())
        if is_first and len(places) > 1:
            self._plan()
            return places[:1]
        return places

    def _look_up(self, address: tuple[str | None, int]) -> None:
        mark = self._resolving[address] = object()
        resolve = functools.partial(self._resolve, address, mark)
        if self._options.io_thread or len(self._addresses) > 1:
            # A name server may take its time; other storages and addresses are served meanwhile.
            try:
                self._loop.runtime.start_thread(resolve, 'zeo_clone name resolution')
            except RuntimeError as error:  # there are as many as the system allows
                self._resolved(address, mark, error)
        else:
            resolve()

    def _resolve(self, address: tuple[str | None, int], mark: object) -> None:
        """Look up the names, in a thread of its own."""
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
            self.note_error(format_address(address), found)
            found = []
        for endpoint in found:
            self._try(Target(endpoint, address[0]))
        if not found:
            self._look_around()

    # ---- attempts -------------------------------------------------------------------------------

    def _try(self, target: Target) -> None:
        busy: list[Attempt | Link] = [*self._trying, *self._fallbacks]
        if all(one.target != target for one in busy):
            attempt = Attempt(self._loop, target, self._options, self)
            self._trying[attempt] = None
            attempt.connect()

    def attempt_registered(self, attempt: Attempt, registered: Registered) -> None:
        """Called by an attempt: it has come about."""
        wanted = attempt in self._trying
        self._trying.pop(attempt, None)
        link = self._make_link(registered)
        if wanted and (not link.read_only or self._options.read_only):
            self._found(link)
        elif wanted and self._wish is Wish.ANY:
            self._fallbacks.append(link)
            self._look_around()
        else:
            link.fail(ClientDisconnected('another server is used'))  # this one is no better
            if wanted:
                self._look_around()

    def attempt_failed(self, attempt: Attempt, error: Exception) -> None:
        """Called by an attempt: it has come to nothing."""
        self.note_error(str(attempt.target), error)
        self._loop.door(functools.partial(self._given_up, attempt))

    def _given_up(self, attempt: Attempt) -> None:
        if attempt in self._trying:
            del self._trying[attempt]
            self._look_around()

    # ---- what then ------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """An attempt has come to nothing, or to a read-only server."""
        if self._fallbacks:
            if not (self._resolving or self._trying):
                self._take_less()
                return
            if self._patience is None:
                self._patience = self._loop.call_later(FALLBACK_PATIENCE_S, self._take_less)
        self._plan()

    def _take_less(self) -> None:
        if self._patience is not None:
            self._patience.cancel()  # or it would cut that of a later fallback short
            self._patience = None
        if self._fallbacks:
            self._found(self._fallbacks.pop(0))

    def _plan(self) -> None:
        """Plan the next round, if there is to be one."""
        if self._next is not None or self._wish is Wish.NONE:
            return
        pause = UPGRADE_PAUSE_S
        if self._wish is Wish.ANY:
            longest = self._options.max_poll_s
            if self._is_refused():
                longest = max(longest, REFUSED_PAUSE_S)
            pause = min(longest, FIRST_PAUSE_S * 2 ** min(self._failures, 16))
            pause *= 0.8 + 0.4 * self._loop.runtime.random()
            self._failures += 1
        self._next = self._loop.call_later(pause, self.go_on)

    def _is_refused(self) -> bool:
        """Do all servers refuse for a reason that will not go away by itself?"""
        errors = list(self._errors.values())
        return bool(errors) and all(map(is_definite, errors))


def describe(error: Exception) -> str:
    """An error in a line of the log or of a complaint."""
    return f'{type(error).__name__}: {str(error)[:500]}'
