"""Long absences: what changed while a client was away for longer than the history remembers.

In: the last tid of the client's cache.  Out: the oids written since, read from the storage itself by a
worker thread.  Only for storages with an iterator, and only if the tid is one of the storage's (C22).
"""
from __future__ import annotations

from typing import Any

from zeo_clone.server.backend.finished import transactions
from zeo_clone.server.backend.iterators import end

#: More oids than this are not worth to be verified: the client drops its cache.
MAX_OIDS = 1_000_000


def changed_between(storage: Any, after: bytes, until: bytes) -> list[bytes] | None:
    """Worker thread: the oids of all transactions later than `after`, up to `until`; None if too many, or if
    there is no transaction `after`."""
    oids: dict[bytes, None] = {}
    found = transactions(storage, after, until)
    try:
        later = iter(found)
        first = next(later, None)
        if first is None or first.tid != after:
            return None
        for transaction in later:
            for record in transaction:
                oids[record.oid] = None
            if len(oids) > MAX_OIDS:
                return None
    finally:
        end(found)
    return list(oids)
