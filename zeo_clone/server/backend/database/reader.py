"""Where clients read: the server's cache, and what is not there from the database.

In: loads.  Out: revisions, at once or as `Deferred`s.  Loads that wait at the same time are one question,
equal ones are asked for once.  While the database is away they wait for `patience_s`, then they fail with
an error that lets the client's transaction be tried again.  Loop thread only.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ZODB.POSException import POSKeyError, ReadConflictError, StorageError
from ZODB.utils import p64, z64

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.database.line import Line, Rows
from zeo_clone.server.backend.database.records import Records
from zeo_clone.server.backend.database.relstorage import Database, array_of, number_of, record_of
from zeo_clone.server.backend.flights import Flight, Flights, Revision, Waiting
from zeo_clone.server.deferred import Deferred

log = logging.getLogger(__name__)

#: Objects in one question.
MOST_AT_ONCE = 100
#: So often, in seconds, it is looked who waits for too long.
TICK_S = 0.5


class DatabaseAway(ReadConflictError):  # type: ignore[misc]
    """The database could not be asked for some time, or gave way to another one: the transaction can be tried
    again."""


class _Question(NamedTuple):
    """Something else than current records."""

    statement: str
    arguments: Any
    done: Callable[[Rows], object]
    answer: Deferred
    since: float


class Reader:
    """Reads from `database`, with the cache `records` in front."""

    def __init__(self, loop: Loop, name: str, database: Database, records: Records, flights: Flights,
                 connections: int, patience_s: float) -> None:
        self._loop = loop
        self._name = name
        self._clock = loop.runtime.monotonic
        self._database = database
        self._statements = database.statements
        self._keeps_history = database.keeps_history
        self._records = records
        self._flights = flights
        self._patience_s = patience_s
        self._wanted: dict[bytes, None] = {}  # oids of flights that are to be asked for
        self._older: deque[tuple[bytes, Waiting]] = deque()  # who wants what is not current
        self._questions: deque[_Question] = deque()
        self._lines = [_OneLine(self, loop, database, patience_s) for _ in range(connections)]
        self._closed = False

    def __repr__(self) -> str:
        return f'<Reader of {self._name!r}: {self._flights!r}, {len(self._older)} older>'

    def open(self) -> None:
        """Begin to read."""
        for line in self._lines:
            line.line.open()
        self._tick()

    def close(self) -> None:
        """At the end."""
        self._closed = True
        for line in self._lines:
            line.line.close()

    @property
    def waiting(self) -> int:
        """How many loads wait."""
        return len(self._flights) + len(self._older) + len(self._questions)

    # ---- what is asked ------------------------------------------------------------------------------

    def loadBefore(self, oid: bytes, tid: bytes) -> Revision | Deferred:
        """As a storage's, or later.  The `Deferred` fails with POSKeyError or `DatabaseAway`."""
        found = self._records.get(oid)
        if found is not None and found[1] < tid:
            return found[0], found[1], None
        answer = Deferred()
        waiting = Waiting(tid, answer, self._clock())
        if found is not None:
            self._want_older(oid, waiting)
        elif self._flights.join(oid, waiting):
            self._wanted[oid] = None
        self.go_on()
        return answer

    def ask(self, statement: str, arguments: Any, done: Callable[[Rows], Any]) -> Deferred:
        """What `done` makes of the rows."""
        answer = Deferred()
        self._questions.append(_Question(statement, arguments, done, answer, self._clock()))
        self.go_on()
        return answer

    def read_all_again(self) -> None:
        """Anything may have changed, backwards even."""
        self._records.clear()
        for one in self._lines:
            one.line.renew()  # what is on its way is of before

    # ---- the lines ------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Ask for what waits, as far as there are lines."""
        for one in self._lines:
            if one.line.is_ready and not self._ask_next(one):
                break

    def _ask_next(self, one: _OneLine) -> bool:
        if self._wanted:
            oids = one.current = self._next_wanted()
            one.line.ask(self._statements.current, (array_of(oids),), one.got)
        elif self._older:
            older = one.older = [self._older.popleft() for _ in range(min(MOST_AT_ONCE, len(self._older)))]
            asked = [number_of(oid) for oid, _ in older], [number_of(wait.before) for _, wait in older]
            one.line.ask(self._statements.before, asked, partial(self._got_older, one))
        elif self._questions:
            question = one.question = self._questions.popleft()
            one.line.ask(question.statement, question.arguments, partial(self._got_answer, one))
        else:
            return False
        return True

    def _next_wanted(self) -> list[bytes]:
        oids = list(self._wanted)
        if len(oids) <= MOST_AT_ONCE:
            self._wanted.clear()
            return oids
        some = oids[:MOST_AT_ONCE]
        for oid in some:
            del self._wanted[oid]
        return some

    def take_back(self, one: _OneLine) -> None:
        """The connection was lost: ask again what was asked."""
        self._wanted.update(dict.fromkeys(one.current))
        self._older.extendleft(reversed(one.older))
        if one.question is not None:
            self._questions.appendleft(one.question)
        one.forget()
        self.go_on()

    def refuse(self, one: _OneLine, error: Exception) -> None:
        """The database has refused what was asked."""
        log.error('storage %r: the database refuses a question: %s', self._name, str(error).strip())
        refusal = StorageError(f'the database: {str(error).strip()[:500]}')
        for oid in one.current:
            for waiting in self._flights.land(oid).waiting:
                waiting.answer.fail(refusal)
        for _, waiting in one.older:
            waiting.answer.fail(refusal)
        if one.question is not None:
            one.question.answer.fail(refusal)
        one.forget()

    def _tick(self) -> None:
        if self._closed:
            return
        self._loop.call_later(TICK_S, self._tick)
        since = self._clock() - self._patience_s
        late = self._flights.older_than(since)
        for queue in (self._older, self._questions):
            while queue and _since(queue[0]) < since:
                first: Any = queue.popleft()
                late.append(first[1] if queue is self._older else first)
        for waiting in late:
            waiting.answer.fail(DatabaseAway('the database of the server is away; try again later'))

    # ---- what is answered -----------------------------------------------------------------------------

    def got(self, one: _OneLine, rows: Rows) -> None:
        """Current records have come through `one`."""
        oids, one.current = one.current, []
        found = {p64(oid): (record_of(record), p64(tid)) for oid, tid, record in rows}
        for oid in oids:
            record, serial = found.get(oid, (None, z64))
            flight = self._flights.land(oid)
            if record is not None and flight.changed_after(serial) is None:
                self._records.put(oid, record, serial)
            self._answer(oid, flight, record, serial)

    def _answer(self, oid: bytes, flight: Flight, record: bytes | None, serial: bytes) -> None:
        changed = flight.changed_after(serial)
        for waiting in flight.waiting:
            if changed is not None and waiting.before > changed:
                if self._flights.join(oid, waiting):  # read before that, wanted as it is since: once more
                    self._wanted[oid] = None
            elif serial < waiting.before:
                if record is None:
                    waiting.answer.fail(POSKeyError(oid))
                else:
                    waiting.answer.succeed((record, serial, changed))
            else:
                self._want_older(oid, waiting)

    def _want_older(self, oid: bytes, waiting: Waiting) -> None:
        if self._keeps_history:
            self._older.append((oid, waiting))
        else:
            waiting.answer.succeed(None)

    def _got_older(self, one: _OneLine, rows: Rows) -> None:
        older, one.older = one.older, []
        found = {(oid, before): (tid, record, following) for oid, before, tid, record, following in rows}
        for oid, waiting in older:
            tid, record, following = found[number_of(oid), number_of(waiting.before)]
            if tid is None:
                waiting.answer.succeed(None)
            elif record is None:  # its creation was undone, or it was deleted
                waiting.answer.fail(POSKeyError(oid))
            else:
                end = None if following is None else p64(following)
                waiting.answer.succeed((bytes(record), p64(tid), end))

    def _got_answer(self, one: _OneLine, rows: Rows) -> None:
        question, one.question = one.question, None
        assert question is not None
        try:
            value = question.done(rows)
        except Exception as error:
            question.answer.fail(error)
        else:
            question.answer.succeed(value)


def _since(entry: Any) -> float:
    since: float = entry[1].since if len(entry) == 2 else entry.since
    return since


class _OneLine:
    """One connection of the reader, and what was asked through it."""

    def __init__(self, reader: Reader, loop: Loop, database: Database, patience_s: float) -> None:
        self._reader = reader
        self.current: list[bytes] = []
        self.older: list[tuple[bytes, Waiting]] = []
        self.question: _Question | None = None
        self.line = Line(loop, database, self, patience_s, database.statements.prepare)
        self.got = partial(reader.got, self)  # made once: there is one for each load

    def forget(self) -> None:
        """Nothing is asked any more."""
        self.current, self.older, self.question = [], [], None

    def ready(self) -> None:
        """Of `line.User`."""
        self._reader.go_on()

    def lost(self, error: Exception) -> None:
        """Of `line.User`."""
        self._reader.take_back(self)

    def failed(self, error: Exception) -> None:
        """Of `line.User`."""
        self._reader.refuse(self, error)

    def notified(self, _: list[str]) -> None:
        """Of `line.User`: nothing is listened to."""
