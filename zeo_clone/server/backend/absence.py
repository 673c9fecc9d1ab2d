"""Long absences: what changed while a client was away for longer than the history remembers.

In: the last tid of the client's cache.  Out: the oids written since, read from the storage itself by a
worker thread, so that a site's caches survive a long night.  Only for storages with an iterator, only as far
back as ``invalidation-age`` permits, and only if the tid is one of the storage's (C22).  It knows no client.
"""
from __future__ import annotations

from typing import Any

from persistent.TimeStamp import TimeStamp
from ZODB.utils import z64

from zeo_clone.server.backend.iterators import end

#: More oids than this are not worth to be verified: the client drops its cache.
MAX_OIDS = 1_000_000


def is_recent(tid: bytes, age_s: float | None, now: float) -> bool:
    """May the changes since `tid` be looked for, at ``now`` seconds since the epoch?"""
    return bool(age_s) and tid != z64 and TimeStamp(tid).timeTime() >= now - age_s  # type: ignore[operator]


def changed_between(storage: Any, after: bytes, until: bytes) -> list[bytes] | None:
    """Worker thread: the oids of all transactions later than `after`, up to `until`; None if too many, or if
    there is no transaction `after`."""
    oids: dict[bytes, None] = {}
    transactions = storage.iterator(after, until)
    try:
        later = iter(transactions)
        first = next(later, None)
        if first is None or first.tid != after:
            return None
        for transaction in later:
            for record in transaction:
                oids[record.oid] = None
            if len(oids) > MAX_OIDS:
                return None
    finally:
        end(transactions)
    return list(oids)
