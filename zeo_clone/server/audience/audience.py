"""Who is told what has happened to one storage, once each, in the order in which the storage did it.

All are told of a commit at once, before its client has the answer, unless commits come faster than clients
can be told: sooner after all were told than that took, which for 200 is longer than a few commits.  Then
everybody rests `REST` times as long as that took, `LONGEST_REST_S` at most, and is told of several commits in
one piece; and so on until a rest brings no more than one commit.  Whatever else a client hears, the answer
to a call above all, comes after its news.

In: attendees that come and go; commits of ours; from a storage that is a client itself, what others changed,
in any thread.  Out: messages to attendees.  It knows no storage: what happened it is told, and where the
storage is now it asks a function.  Loop thread only, apart from the methods under the banner "any thread".
"""
from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from zeo_clone.loop.core import Loop
from zeo_clone.server.audience.history import History
from zeo_clone.server.stats import Stats
from zeo_clone.steps import take_steps
from zeo_clone.zrpc.frames import frame
from zeo_clone.zrpc.messages import encode_oneway

log = logging.getLogger(__name__)

#: Later than any tid.
AFTER_ALL = b'\xff' * 9
#: So many times as long as it took to tell all nobody is told: to hear it takes the clients longer.
REST = 5
#: Nobody waits longer for news.
LONGEST_REST_S = 0.01
#: More bytes of news do not wait.
MAX_WAITING = 32 << 10


class Attendee(Protocol):
    """What a storage tells a session."""

    def follow(self, news: News) -> None:
        """Be told of these from now on, at the latest before anything else is sent."""

    def tell_news(self) -> None:
        """Send what has not been sent of them."""

    def skip_news(self) -> None:
        """Leave out what has not been sent: it knows already."""

    def send(self, data: bytes) -> None:
        """Send the bytes of messages."""

    def disconnect(self, reason: str) -> None:
        """Close the connection; logs `reason`."""

    def describe(self) -> dict[str, Any]:
        """Address, label and numbers, for the status.  Any thread."""

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received, and waiting to be sent.  Any thread."""


class Told(NamedTuple):
    """Transaction `tid` of `committer` wrote `oids`; `tell_committer` tells it that."""

    tid: bytes
    oids: list[bytes]
    committer: Any
    tell_committer: Callable[[], object]


class News:
    """Messages that all who listen are to get, kept until each of them has them.

    Whoever has those before a place gets the rest in one piece, made once for all at the same place.  Each
    attendee remembers its own.
    """

    def __init__(self) -> None:
        self.end = 0  # the place of the message that comes next
        self.size = 0  # bytes that are kept
        self._messages: list[bytes] = []  # the last ones before `end`
        self._place = 0  # from here to `end` ...
        self._piece = b''  # ... is this

    def __repr__(self) -> str:
        return f'<News up to {self.end}, {len(self._messages)} kept>'

    def add(self, message: bytes) -> None:
        """The next message."""
        self._messages.append(message)
        self.size += len(message)
        self.end += 1
        self._place = -1

    def since(self, place: int) -> bytes:
        """All messages from `place` on, which is before `end`.  Raises LookupError if one is forgotten."""
        if place != self._place:
            if self.end - place > len(self._messages):
                raise LookupError(f'{self!r} are asked for what came before')
            self._piece, self._place = b''.join(self._messages[place - self.end:]), place
        return self._piece

    def forget(self, place: int) -> None:
        """All have what is before `place`."""
        count = max(0, len(self._messages) - (self.end - place))
        self.size -= sum(map(len, self._messages[:count]))
        del self._messages[:count]
        self._place, self._piece = -1, b''


class Audience:
    """The audience of the storage `name`, with its `history`; `where` tells its last tid, and may raise."""

    def __init__(self, loop: Loop, name: str, stats: Stats, history: History,
                 where: Callable[[], bytes]) -> None:
        self._loop = loop
        self._name = name
        self._stats = stats
        self.history = history  # as far as it has been told
        self._where = where
        self._clock = loop.runtime.monotonic
        self._sending_s = loop.runtime.sending_s
        self._news = News()
        self._storm_until = self._rest_until = -math.inf  # a commit before the one is told at the other
        self._waiting = False  # all will be, then
        self._told = 0  # the place in the news up to which all have been
        self._attendees: dict[Attendee, None] = {}  # in the order in which they came
        self._elsewhere: deque[tuple[bytes, list[bytes]]] = deque()  # append and popleft are atomic
        self._resetting = False  # set in any thread: the storage has lost track of changes

    def __repr__(self) -> str:
        return f'<Audience of {self._name!r}: {len(self._attendees)}, {self.history!r}>'

    def __len__(self) -> int:
        return len(self._attendees)

    # ---- who listens ------------------------------------------------------------------------------

    def join(self, attendee: Attendee) -> None:
        """`attendee` gets every invalidation from now on."""
        self.drain()
        attendee.follow(self._news)
        self._attendees[attendee] = None

    def part(self, attendee: Attendee) -> None:
        """`attendee` has gone."""
        if self._attendees.pop(attendee, attendee) is None:
            sent, received, _ = attendee.traffic
            self._stats.sent += sent
            self._stats.received += received

    def present(self) -> list[Attendee]:
        """All that listen.  Any thread."""
        return list(self._attendees)

    # ---- what they know ---------------------------------------------------------------------------

    def last_tid(self) -> bytes:
        """The last transaction that attendees have been told of; z64 if there is none."""
        self._reset()  # the storage may have failed when it was to tell where it is
        self.drain()
        return self.history.last_tid

    # ---- what they are told -----------------------------------------------------------------------

    def tell_all(self, name: str, args: tuple[Any, ...], besides: Any = None) -> None:
        """Call a method of every client but one."""
        knows = besides in self._attendees
        if len(self._attendees) > knows:
            self._announce(frame(encode_oneway(name, args)), [besides] if knows else [])

    def publish(self, tid: bytes, oids: list[bytes], committer: Any) -> None:
        """Transaction `tid` wrote `oids`.  `committer`, if there is one, knows."""
        try:
            self.history.add(tid, oids)
            self._stats.invalidations += len(oids)
            self.tell_all('invalidateTransaction', (tid, oids), committer)
        except Exception:  # no memory, say: nobody may go on without knowing of it
            log.exception('storage %r: clients could not be told of transaction %s', self._name, tid.hex())
            self._resetting = True
            self._reset()

    def publish_group(self, group: Sequence[Told]) -> None:
        """Several transactions, in their order: each attendee gets one piece.

        A committer is told of its own by its `Told`, between what was before and what was after that.
        """
        try:
            messages = []
            for tid, oids, _, _ in group:
                self.history.add(tid, oids)
                self._stats.invalidations += len(oids)
                messages.append(frame(encode_oneway('invalidateTransaction', (tid, oids))))
            places = {one.committer: place for place, one in enumerate(group)
                      if one.committer in self._attendees}
            self._announce(b''.join(messages), list(places))
            for attendee, place in places.items():
                self._tell(attendee, partial(attendee.send, b''.join(messages[:place])))
            for one in group:
                one.tell_committer()
            for attendee, place in places.items():
                self._tell(attendee, partial(attendee.send, b''.join(messages[place + 1:])))
        except Exception:  # as above
            log.exception('storage %r: clients could not be told of transactions', self._name)
            self._resetting = True
            self._reset()

    def _announce(self, message: bytes, knowing: list[Attendee]) -> None:
        """Tell all but those that know, now or soon."""
        for attendee in knowing:
            self._tell(attendee, attendee.tell_news)  # what was before
        self._news.add(message)
        for attendee in knowing:
            attendee.skip_news()
        if self._news.size > MAX_WAITING:
            self._tell_news()
        elif not self._waiting:
            now = self._clock()
            if now >= self._storm_until:
                self._tell_news()
            else:
                self._waiting = True
                self._loop.call_later(self._rest_until - now, self._stop_waiting)

    def _stop_waiting(self) -> None:
        self._waiting = False
        if self._news.size:
            self._tell_news()

    def _tell_news(self) -> None:
        began, end = self._clock(), self._news.end
        several = end - self._told > 1
        self._told = end
        attendees = list(self._attendees)
        for attendee in attendees:  # if one goes because of it, the next commit may begin and bring more news
            self._tell(attendee, attendee.tell_news)
        self._news.forget(end)
        ended = self._clock()
        took = max(ended - began, self._sending_s * len(attendees))
        # Those who are told may take the processor from the committer: in a storm, too, the commit that comes
        # next comes late.  Who waits until all were told before he commits again never makes two wait.
        self._rest_until = ended + min(REST * took, LONGEST_REST_S)
        self._storm_until = self._rest_until if several else ended + min(took, LONGEST_REST_S)

    def _tell(self, attendee: Attendee, tell: Callable[[], object]) -> None:
        try:
            tell()
        except Exception as error:
            log.exception('storage %r: a client could not be told', self._name)
            self._send_away([attendee], f'it could not be told: {type(error).__name__}')

    def drain(self, before: bytes = AFTER_ALL) -> None:
        """Publish what came from elsewhere before a tid, before anything later is said."""
        while self._elsewhere and self._elsewhere[0][0] < before:
            tid, oids = self._elsewhere.popleft()
            if self._resetting:  # asked now: whoever has lost track says so, then tells a tid without oids
                self._reset()
            else:
                self.publish(tid, oids, None)

    def _send_away(self, attendees: Iterable[Attendee], reason: str) -> None:
        take_steps(f'sending clients of storage {self._name!r} away',
                   *[partial(attendee.disconnect, reason) for attendee in attendees])

    def missed(self, tid: bytes, oids: list[bytes]) -> None:
        """Transactions up to `tid` wrote `oids`, nobody knows which wrote what: who comes back is told."""
        self.history.add(tid, oids)
        self._stats.invalidations += len(oids)
        self._send_away(list(self._attendees), 'the served storage has missed transactions and does not know '
                                               'which wrote what; caches must be verified')

    def start_over(self, last_tid: bytes) -> None:
        """Anything may have changed up to `last_tid`."""
        self.history.forget(last_tid)
        self._send_away(list(self._attendees),
                        'the served storage has lost track of changes; caches must be verified')

    def _reset(self) -> None:
        if not self._resetting:
            return  # the storage has told it more than once
        self._send_away(list(self._attendees),
                        'the served storage has lost track of changes; caches must be verified')
        last_tid = self._find_place()
        while self._elsewhere and self._elsewhere[0][0] <= last_tid:
            self._elsewhere.popleft()
        self.history.forget(last_tid)

    def _find_place(self) -> bytes:
        """Where the storage is when it has told all (C23).  It may lose track again while it is asked."""
        last_tid = b''
        while self._resetting:
            self._resetting = False
            try:
                last_tid = self._where()
            except BaseException:
                self._resetting = True
                raise
        return last_tid

    # ---- any thread -------------------------------------------------------------------------------

    def heard(self, tid: bytes, oids: list[bytes]) -> None:
        """Somebody else's transaction `tid` changed `oids`."""
        self._elsewhere.append((tid, oids))
        self._loop.door(self.drain)

    def lost_track(self) -> None:
        """Anything may have changed."""
        self._resetting = True
        self._loop.door(self._reset)
