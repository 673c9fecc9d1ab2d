"""Which tids and oids a storage is given, and what is said of one that has others already (C25).

A tid of the past would leave other clients stale for ever, one of the far future, or an oid at the end of
their space, would be the last that anybody gets.  In: what a client has chosen, what the storage says.  Out:
`StorageError`, or the value.  Loop thread only; oids that arguments name are checked in `arguments`.
"""
from __future__ import annotations

import datetime
import struct
from collections.abc import Callable, Iterator
from typing import Any

from persistent.TimeStamp import TimeStamp
from ZODB.POSException import StorageError
from ZODB.utils import maxtid, oid_repr, p64, readable_tid_repr, u64, z64

from zeo_clone.server.vocabulary import END_OF_OIDS

#: A tid that a client has chosen may be so far ahead of the clock, in seconds: clocks differ.
AHEAD_S = 86_400.0
#: The first transaction of a server comes so long after the last one at most if that is in the future, in
#: units of tids: some 4 s.
LEAP = 1 << 28
#: A server that begins passes over so many oids, some times: clients have some left from the one before it.
PASSED_OIDS = 1 << 20
#: ... at most so many times, by chance: the one before it may have begun at the same highest oid.
PASSES = 1 << 20
#: With fewer oids left the log has a word about it at the start.
FEW_OIDS = 1 << 32


def ahead_s(tid: bytes, now: float) -> float:
    """How far `tid` lies in the future of ``now`` seconds since the epoch."""
    return float(TimeStamp(tid).timeTime()) - now


def later_tid(last_tid: bytes, now: float) -> bytes:
    """A tid for ``now`` seconds since the epoch, greater than `last_tid` whatever the clock says."""
    when = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    stamp = TimeStamp(when.year, when.month, when.day, when.hour, when.minute,
                      when.second + when.microsecond / 1e6)
    if last_tid != z64:
        stamp = stamp.laterThan(TimeStamp(last_tid))
    tid: bytes = stamp.raw()
    return tid


def check_tid(tid: bytes | None, last_tid: bytes, now: float) -> None:
    """May a transaction follow `last_tid`, with the tid that a client has chosen, if one has?  Raises
    StorageError."""
    if last_tid >= maxtid:
        raise StorageError('the storage has no tids left: it has a transaction with the last possible one. '
                           'Copy the database to a new one without it')
    if tid is not None and tid <= last_tid:
        raise StorageError(
            f'a transaction cannot have the tid {readable_tid_repr(tid)}, because the storage is at '
            f'{readable_tid_repr(last_tid)} already: transactions are copied in order, into a storage that '
            f'is empty or older')
    if tid is not None and ahead_s(tid, now) > AHEAD_S:
        raise StorageError(f'a transaction cannot have the tid {readable_tid_repr(tid)}: that is more than a '
                           f"day ahead of the server's clock")


def first_tid(last_tid: bytes, now: float, random: Callable[[], float]) -> bytes | None:
    """The tid for a server's first transaction; None: the storage will choose.

    A server before this one may have told a client the tid of a transaction that it could not finish; if that
    tid is found later, it is committed to that client (C11).  So nobody else may get it.  Tids of the clock
    are never the same, but where the clock is behind the last transaction the next tid would be.
    """
    if ahead_s(last_tid, now) < 0:
        return None
    tid: bytes = p64(min(u64(last_tid) + 1 + int(random() * LEAP), u64(maxtid)))
    return tid


def pass_over_oids(storage: Any, highest_oid: bytes | None, random: Callable[[], float]) -> None:
    """At start, with the highest oid that is stored: do not hand out those that a server before this one may
    have (C13).

    Clients have got some that are in no transaction yet: ZEO's keep theirs over a reconnect, and new objects
    of transactions that go on have some.  Nothing is passed over in a database of nothing but a root, or
    where few oids are left.
    """
    highest = u64(highest_oid or z64)
    passed = PASSED_OIDS * (1 + int(random() * PASSES))
    if 0 < highest < (1 << 63) - FEW_OIDS - passed:
        storage.set_max_oid(p64(highest + passed))


def new_oids(storage: Any, count: int) -> list[bytes]:
    """At most `count` oids that nobody has.  Raises StorageError when there are none left."""
    oids: list[bytes] = []
    for _ in range(count):
        try:
            oid = storage.new_oid()
        except (struct.error, ValueError):  # beyond eight bytes
            oid = END_OF_OIDS
        if oid >= END_OF_OIDS and oids:
            break
        if oid >= END_OF_OIDS:
            raise StorageError('the storage has no oids left: there is an object at the end of their space, '
                               '2**63. Copy the database to a new one without it')
        oids.append(oid)
    return oids


def complaints(last_tid: bytes, highest_oid: bytes | None, now: float) -> Iterator[str]:
    """What is wrong with the numbers that are in the storage already."""
    seconds = ahead_s(last_tid, now)
    if seconds > AHEAD_S:
        yield (f'its last transaction has the tid {readable_tid_repr(last_tid)}, which is '
               f'{seconds / 86_400:.0f} days ahead of the clock. New transactions can only come right after '
               f'it, whatever the time; if the clock is right, copy the database to a new one up to the '
               f'transaction before')
    if highest_oid is not None and u64(highest_oid) >= (1 << 63) - FEW_OIDS:
        left = max(0, (1 << 63) - 1 - u64(highest_oid))
        yield (f'its highest oid is {oid_repr(highest_oid)}: {left} new objects can be made until there are '
               f'no oids left. Copy the database to a new one without that object')
