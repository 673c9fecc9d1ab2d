"""Undo logs and histories: what a storage says about transactions, as it can be sent.

In: entries of a storage's past.  Out: entries of values that the client takes (`extensions`).  A worker
thread, or the loop's for what is short.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ZODB.POSException import POSKeyError
from ZODB.TimeStamp import TimeStamp
from ZODB.utils import maxtid

from zeo_clone.server.backend.finished import transactions
from zeo_clone.server.backend.iterators import end
from zeo_clone.zrpc import extensions

Entry = dict[str, Any]


def described(with_rich: bool, find: Callable[..., Iterable[Entry | None]], *args: Any
              ) -> Iterator[Entry | None]:
    """The entries of ``find(*args)``, which is called at once."""
    return (entry and extensions.sendable(entry, with_rich) for entry in find(*args))


def look_up(storage: Any, oid: bytes, size: int) -> list[dict[str, Any]]:
    """The history of an object, read from the transactions themselves, which takes long."""
    sizes: dict[bytes, int] = {}
    before = maxtid
    while len(sizes) < size:
        try:
            revision = storage.loadBefore(oid, before)
        except POSKeyError:
            if not sizes:
                raise
            break
        if revision is None:
            break
        before = revision[1]
        sizes[before] = len(revision[0])
    found = {}
    if sizes:
        written = transactions(storage, min(sizes), max(sizes))
        try:
            for transaction in written:
                tid = transaction.tid
                if tid in sizes:
                    found[tid] = {
                        **extensions.plain(transaction), 'time': TimeStamp(tid).timeTime(),
                        'user_name': transaction.user, 'description': transaction.description, 'tid': tid,
                        'size': sizes[tid]}
        finally:
            end(written)
    return [found[tid] for tid in sizes if tid in found]
