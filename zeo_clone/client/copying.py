"""Copying: all transactions of one storage into another, blobs included.

Runs in the caller's thread, for minutes or hours: progress can be watched through `verbose`.
"""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from typing import Any

from ZODB.blob import is_blob_record
from ZODB.interfaces import IBlobStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import readable_tid_repr

from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.shareddir import Scratch

log = logging.getLogger(__name__)


def copy_transactions(source: Any, target: Any, verbose: Any, runtime: Runtime) -> None:
    """Append the transactions of `source` to the ClientStorage `target` with their tids.

    `verbose` true logs each transaction; a callable gets ``(tid, number of records)`` after each.
    Records are restored as they are.  One with a blob is stored, since there is no restoring of blobs on
    the wire; its tid and data are the same.
    """
    blobs = IBlobStorage.providedBy(source) and IBlobStorage.providedBy(target)
    scratch = Scratch(runtime, target.temporaryDirectory()) if blobs else None
    serials: dict[bytes, bytes] = {}  # of objects with blobs
    with contextlib.closing(_closing(source.iterator())) as transactions:
        for transaction in transactions:
            count = 0
            target.tpc_begin(transaction, transaction.tid, transaction.status)
            try:
                for record in transaction:
                    count += 1
                    path = _blob_path(source, record) if blobs else None
                    if path is None or scratch is None:
                        target.restore(record.oid, record.tid, record.data, '', record.data_txn, transaction)
                    else:
                        copy = scratch.take('part')
                        try:
                            runtime.copy(path, copy)
                            serial = serials.get(record.oid) or _newest(target, record.oid)
                            target.storeBlob(record.oid, serial, record.data, copy, '', transaction)
                        finally:
                            scratch.give_back(copy)
                    if blobs:
                        serials[record.oid] = transaction.tid
                target.tpc_vote(transaction)
                target.tpc_finish(transaction)
            except BaseException:
                target.tpc_abort(transaction)
                raise
            if callable(verbose):
                verbose(transaction.tid, count)
            elif verbose:
                log.info('copied %s, %d records', readable_tid_repr(transaction.tid), count)


def _newest(target: Any, oid: bytes) -> bytes:
    """The serial of what an earlier copy has brought; `getTid` would not tell of an undone creation."""
    try:
        return target.history(oid)[0]['tid']  # type: ignore[no-any-return]
    except LookupError:
        return bytes(8)


def _closing(iterator: Any) -> Generator[Any, None, None]:
    """The same, and closed at its end, or when something goes wrong; not every iterator can be closed."""
    try:
        yield from iterator
    finally:
        getattr(iterator, 'close', lambda: None)()


def _blob_path(source: Any, record: Any) -> str | None:
    if not is_blob_record(record.data):
        return None
    try:
        return source.loadBlob(record.oid, record.tid)  # type: ignore[no-any-return]
    except POSKeyError:
        return None  # packed away, or undone
