"""Loads that are answered later: equal ones joined, answers that were overtaken corrected (C1).

In: loads of clients, answers of the storage, word of what was changed (through the `Flights`).  Out: the
start of a load; a `Deferred` for each who waits.  Of one object there is one load at a time: who wants it as
it was before another transaction waits for that answer, which mostly is his, too.  Loop thread only.
"""
from __future__ import annotations

from collections.abc import Callable

from ZODB.POSException import POSKeyError

from zeo_clone.server.backend.flights import Flight, Flights, Revision, Waiting
from zeo_clone.server.deferred import Deferred

#: Begin to load an object before a transaction; `Loads.arrived` is to be called with the answer.
Start = Callable[[bytes, bytes], None]


class Loads:
    """All of one storage."""

    def __init__(self, flights: Flights, start: Start, clock: Callable[[], float]) -> None:
        self._flights = flights
        self._start = start
        self._clock = clock

    def __repr__(self) -> str:
        return f'<Loads, {len(self._flights)} under way>'

    def __len__(self) -> int:
        return len(self._flights)

    def load(self, oid: bytes, before: bytes) -> Deferred:
        """The revision of `oid` before a transaction."""
        answer = Deferred()
        self._want(oid, Waiting(before, answer, self._clock()))
        return answer

    def _want(self, oid: bytes, waiting: Waiting) -> None:
        if self._flights.join(oid, waiting):
            try:
                self._start(oid, waiting.before)
            except Exception as error:  # no thread can be started, say
                self.arrived(oid, waiting.before, None, error)

    def arrived(self, oid: bytes, before: bytes, revision: Revision | None, error: BaseException | None
                ) -> None:
        """What a load that was started has come to."""
        flight = self._flights.land(oid)
        for waiting in flight.waiting:
            if error is not None and (waiting.before == before or not isinstance(error, POSKeyError)):
                waiting.answer.fail(error)
            elif error is None and revision is None and waiting.before <= before:
                waiting.answer.succeed(None)
            elif error is None and revision is not None:
                self._answer(oid, flight, before, revision, waiting)
            else:
                self._want(oid, waiting)

    def _answer(self, oid: bytes, flight: Flight, before: bytes, revision: Revision, waiting: Waiting
                ) -> None:
        data, serial, end = revision
        if end is None:
            end = flight.changed_after(serial)
        if serial < waiting.before and (end is None or waiting.before <= end):
            waiting.answer.succeed((data, serial, end))
        elif waiting.before == before and end == revision[2]:
            waiting.answer.succeed(revision)  # whatever the storage says to exactly this
        else:
            self._want(oid, waiting)  # read before it was changed, or another revision is wanted
