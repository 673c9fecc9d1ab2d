"""What the database has committed, in its order: the one source of order (X1).

In: word that there may be something new, from the database, a clock, or whoever wants to be sure; what this
server itself is about to commit.  Out: ``tell(tid, oids, own)`` for each transaction, in the order of tids,
once; ``started_anew(identity)`` if that cannot go on: the database is not what it was any more (a fail-over
to a server that lags, a restored backup, another database), or too much is new to be told one by one.  Loop
thread only, apart from `expect` and `forget`.

A transaction that this server commits is told when it is seen here, and at no other moment: another server's
later one may be seen first by whoever waits for his own COMMIT to return.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from ZODB.utils import p64, u64

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.database.line import Line, Rows
from zeo_clone.server.backend.database.reader import DatabaseAway
from zeo_clone.server.backend.database.relstorage import CHANNEL, Database
from zeo_clone.server.deferred import Deferred

log = logging.getLogger(__name__)

#: Rows of one answer, unless more are needed for any transaction to be told, ...
MOST_AT_ONCE = 20_000
#: ... and of one that has several transactions.
MOST_TOGETHER = 4 * MOST_AT_ONCE
#: Digits of a tid.
LONGEST_TID = 19


class Feed:
    """What `database` has committed after the transaction `last`; it is asked every `interval_s` at least."""

    def __init__(self, loop: Loop, name: str, database: Database, last: bytes, interval_s: float,
                 patience_s: float, tell: Callable[[bytes, list[bytes], Any], object],
                 started_anew: Callable[[str | None], object]) -> None:
        self._loop = loop
        self._name = name
        self._clock = loop.runtime.monotonic
        self._database = database
        self._statements = database.statements
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._tell = tell
        self._started_anew = started_anew
        self._line = Line(loop, database, self, max(patience_s, 2 * interval_s), f'LISTEN {CHANNEL}')
        self._limit = MOST_AT_ONCE
        self._stale = False  # there may be something new ...
        self._awaited: bytes | None = None  # ... or there is, if this one has not been told
        self._is_refused = False  # the database has refused to tell, and is asked again at the next tick
        self._is_logged = database.keeps_history  # the last transaction has a row that is there for good
        self._waiting: list[tuple[float, Deferred]] = []  # for a question that is yet to be asked ...
        self._asked: list[tuple[float, Deferred]] = []  # ... and for the answer to the one under way
        self._own: dict[bytes, Any] = {}  # transactions of ours: noted before their COMMIT
        self._closed = False
        #: The last transaction that was told.
        self.last = last
        #: Since when the database is away, in monotonic seconds; None: it is there.
        self.away_since: float | None = loop.runtime.monotonic()
        #: What was wrong last.
        self.trouble = 'it has not been asked yet'
        #: When an answer came, last.
        self.heard = loop.runtime.monotonic()

    def __repr__(self) -> str:
        return f'<Feed of {self._name!r} at {self.last.hex()}>'

    def open(self) -> None:
        """Begin to ask."""
        self._line.open()
        self._tick()

    def close(self) -> None:
        """At the end."""
        self._closed = True
        self._line.close()

    # ---- any thread -------------------------------------------------------------------------------

    def expect(self, tid: bytes, own: Any) -> None:
        """`own` is about to be committed as `tid`."""
        self._own[tid] = own

    def forget(self, tid: bytes) -> None:
        """It was not, or nobody knows."""
        self._own.pop(tid, None)

    # ---- asking -----------------------------------------------------------------------------------

    def when_fresh(self) -> Deferred:
        """Settled when all has been told that is committed at this moment.  Fails with `DatabaseAway`."""
        answer = Deferred()
        # A client that connects waits no longer than for ten seconds, and is to hear why.
        waited_s = 0.0 if self.away_since is None else self._patience_s / 2
        self._waiting.append((self._clock() - waited_s, answer))
        self.look()
        return answer

    def look(self) -> None:
        """There may be something new."""
        self._stale = True
        if self._line.is_ready:
            self._ask()

    def look_for(self, tid: bytes) -> None:
        """There is the transaction `tid`."""
        self._awaited = tid if self._awaited is None else max(tid, self._awaited)
        if self._line.is_ready and tid != self.last:
            self._ask()

    def _ask(self) -> None:
        self._stale, self._awaited, self._is_refused = False, None, False
        self._asked, self._waiting = self._waiting, []
        self._line.ask(self._statements.since, {'tid': u64(self.last), 'limit': self._limit}, self._got)

    def _tick(self) -> None:
        if self._closed:
            return
        self._loop.call_later(self._interval_s, self._tick)
        self.look()
        since = self._clock() - self._patience_s
        for queue in (self._waiting, self._asked):
            while queue and queue[0][0] < since:
                queue.pop(0)[1].fail(DatabaseAway(
                    f'the database of the server is away; try again later ({self.trouble})'))

    # ---- of `line.User` -----------------------------------------------------------------------------

    def ready(self) -> None:
        """The line is free."""
        if self._is_refused:
            return
        if self.away_since is not None:
            log.info('storage %r: the database is there', self._name)
            self.away_since = None
            self._stale = True
        if self._stale or self._awaited not in (None, self.last):
            self._ask()

    def notified(self, texts: list[str]) -> None:
        """The database says that there are these transactions; what others say, it does not matter what."""
        for text in texts:
            if text.isdecimal() and len(text) <= LONGEST_TID:
                self.look_for(p64(int(text)))
            else:
                self.look()

    def lost(self, error: Exception) -> None:
        """The database is away: what was asked is asked again."""
        self._waiting = self._asked + self._waiting
        self._asked = []
        self._stale = True
        self.trouble = ' '.join(str(error).split())[:300] or type(error).__name__
        if self.away_since is None:
            self.away_since = self._clock()
            log.error('storage %r: the database is away: %s', self._name, self.trouble)

    def failed(self, error: Exception) -> None:
        """The database refuses to tell: it may do so as long as nobody does something about it."""
        self._is_refused = True
        self.lost(error)

    # ---- what is new ------------------------------------------------------------------------------

    def _got(self, rows: Rows) -> None:
        self.heard = self._clock()
        last = u64(self.last)
        logged = {tid for tid, oid, _ in rows if oid is None}
        if last and (not rows or self._is_logged and last not in logged):
            self._start_anew(self._say_lost)
            return
        groups = grouped(rows)
        groups.pop(last, None)
        is_whole = len(rows) < self._limit
        is_partial = not self._database.keeps_history or any(
            note is not None and tid > last for tid, _, note in rows)
        if is_whole and is_partial:
            self._add_lost(groups)
        elif is_partial and len(groups) > 1 and self._limit >= MOST_TOGETHER:
            self._start_anew(self._say_too_much)
            return
        elif is_partial:
            groups.clear()  # what they wrote may be behind the end
        elif not is_whole and groups:
            groups.pop(max(groups))  # perhaps not all of it is here
        if not is_whole and not groups:
            # One transaction has more rows.  That is bounded by what a server takes in one, and to send all
            # away, its committer before his reply, would be worse.  Or it is several, up to a bound.
            self._limit *= 2
        else:
            self._limit = MOST_AT_ONCE
        for number, oids in groups.items():
            tid_told = p64(number)
            self.last = tid_told
            self._tell(tid_told, oids, self._own.pop(tid_told, None))
        self._is_logged = u64(self.last) in logged
        asked, self._asked = self._asked, []
        if is_whole:
            for _, answer in asked:
                answer.succeed(None)
        else:
            self._waiting = asked + self._waiting
            self._stale = True

    def _add_lost(self, groups: dict[int, list[bytes]]) -> None:
        """Without history, or where a pack has been, an object that was written twice shows in the later
        transaction alone, though clients are at the earlier one for a moment.  So the first of several is
        told to have written what they all wrote; and the second, too, for the committer of the first is not
        told of that one.  What one wrote of which nothing is left is among it, apart from garbage.
        """
        numbers = sorted(groups)
        if len(numbers) > 1:
            count = 2 if p64(numbers[0]) in self._own else 1
            written = list(dict.fromkeys(oid for number in numbers for oid in groups[number]))
            groups.update((number, written) for number in numbers[:count])

    def _start_anew(self, say: Callable[[bytes], object]) -> None:
        """What comes after the last transaction that was told cannot be told."""
        self._line.ask(self._statements.place, None, partial(self._got_last, say, self._asked))

    def _got_last(self, say: Callable[[bytes], object], asked: list[tuple[float, Deferred]],
                  rows: Rows) -> None:
        (last, identity), = rows
        before, self.last = self.last, p64(last)
        self._limit = MOST_AT_ONCE
        for tid in list(self._own):
            if tid <= self.last:  # it is never told: who has committed it is sent away, too, and asks
                self.forget(tid)
        self._is_logged = self._database.keeps_history
        self._waiting = asked + self._waiting
        self._asked = []
        self._stale = True
        say(before)
        self._started_anew(identity)

    def _say_lost(self, before: bytes) -> None:
        log.critical('storage %r: the database has lost transaction %s, which clients were told of, and is '
                     'at %s now (a fail-over to a server that lagged behind, a restored backup, another '
                     'database, or a pack up to this moment): all clients are sent away and verify their '
                     'caches', self._name, before.hex(), self.last.hex())

    def _say_too_much(self, before: bytes) -> None:
        log.warning('storage %r: too much was committed after transaction %s to be told one by one, and the '
                    'database is at %s now: all clients are sent away and verify their caches', self._name,
                    before.hex(), self.last.hex())


def grouped(rows: Rows) -> dict[int, list[bytes]]:
    """What each transaction wrote, from rows as of `Statements.since`."""
    groups: dict[int, list[bytes]] = {}
    for tid, oid, note in rows:
        oids = groups.setdefault(tid, [])
        if oid is not None:
            oids.append(p64(oid))
        elif note is not None:
            data = bytes(note)
            oids += [data[at:at + 8] for at in range(0, len(data), 8)]
    return groups
