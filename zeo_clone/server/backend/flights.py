"""Loads under way, and what was changed meanwhile (C1).

A record is read at one moment and sent at a later one; in between others may be told that it has changed:

    client A   load(oid) ----------------------------------------> reply: what it was, until T
    storage               reads revision s
    others                             oid changed in T: told to A, and noted on the load

So an answer never says "current" of a revision that ended before it is sent.  In: loads, and word of changes.
Out: equal loads joined; what an answer means for each of those who wait.  Loop thread only; no storage here.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from ZODB.POSException import POSKeyError

from zeo_clone.server.deferred import Deferred

Revision = tuple[bytes, bytes, 'bytes | None']


class Waiting(NamedTuple):
    """Somebody wants the revision before the transaction `before`; `since`: monotonic seconds."""

    before: bytes
    answer: Deferred
    since: float


class Flight:
    """The load of the current record of one object."""

    __slots__ = ('changes', 'waiting')

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.changes: list[bytes] = []  # transactions that changed it and were told meanwhile, in their order

    def changed_after(self, serial: bytes) -> bytes | None:
        """The first of them later than `serial`."""
        return first_after(self.changes, serial)


class Flights:
    """All of one storage."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, Flight] = {}
        self._batches: dict[Batch, None] = {}

    def __repr__(self) -> str:
        return f'<Flights {len(self._under_way)}, {len(self._batches)} batches>'

    def __len__(self) -> int:
        return len(self._under_way)

    def join(self, oid: bytes, waiting: Waiting) -> bool:
        """`waiting` waits for `oid`; True if nobody did before, so that it has to be read."""
        flight = self._under_way.get(oid)
        is_first = flight is None
        if flight is None:
            flight = self._under_way[oid] = Flight()
        flight.waiting.append(waiting)
        return is_first

    def land(self, oid: bytes) -> Flight:
        """The record of `oid` has been read."""
        return self._under_way.pop(oid)

    def changed(self, tid: bytes, oids: Iterable[bytes]) -> None:
        """Transaction `tid` wrote `oids`, and this is being told."""
        if self._under_way or self._batches:
            for oid in oids:
                flight = self._under_way.get(oid)
                if flight is not None:
                    flight.changes.append(tid)
                for batch in self._batches:
                    batch.changed(tid, oid)

    def older_than(self, since: float) -> list[Waiting]:
        """Takes out who has waited from before `since`."""
        found: list[Waiting] = []
        for flight in self._under_way.values():
            found += [one for one in flight.waiting if one.since < since]
            flight.waiting = [one for one in flight.waiting if one.since >= since]
        return found

    # ---- several at once ----------------------------------------------------------------------------

    def open(self, oids: list[bytes]) -> Batch:
        """An answer with the revisions of several objects is being made."""
        batch = Batch(oids)
        self._batches[batch] = None
        return batch

    def close(self, batch: Batch) -> None:
        """It is made."""
        del self._batches[batch]


class Batch:
    """What was changed while answers for `oids` came one after the other."""

    def __init__(self, oids: list[bytes]) -> None:
        self._changes: dict[bytes, list[bytes]] = {oid: [] for oid in oids}

    def __repr__(self) -> str:
        return f'<Batch {len(self._changes)}>'

    def changed(self, tid: bytes, oid: bytes) -> None:
        """Transaction `tid` wrote `oid`."""
        if oid in self._changes:
            self._changes[oid].append(tid)

    def as_of_now(self, oid: bytes, revision: Revision | None) -> Revision | None:
        """`revision` of `oid`, as it is to be sent."""
        if revision is not None and revision[2] is None:
            return revision[0], revision[1], first_after(self._changes[oid], revision[1])
        return revision


def load_batch(load: Callable[[bytes, bytes], Any], flights: Flights, oids: list[bytes], tid: bytes
               ) -> Deferred:
    """The revisions of all `oids` before `tid`, None where there is none, as of one moment.

    ``load(oid, tid)`` answers at once or by a `Deferred`.
    """
    result, batch = Deferred(), flights.open(oids)
    revisions: dict[int, Any] = {}  # by place

    def got(place: int, revision: Any, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, POSKeyError):
            result.fail(error)
        revisions[place] = revision
        if len(revisions) == len(oids):
            flights.close(batch)
            result.succeed([batch.as_of_now(oid, revisions[at]) for at, oid in enumerate(oids)])

    for place, oid in enumerate(oids):
        try:
            revision = load(oid, tid)
        except Exception as error:
            got(place, None, error)
            continue
        if isinstance(revision, Deferred):
            revision.when_settled(partial(got, place))
        else:
            got(place, revision, None)
    return result


def first_after(tids: list[bytes], serial: bytes) -> bytes | None:
    """The first of `tids`, which go up, that is later than `serial`."""
    return next((tid for tid in tids if tid > serial), None)
