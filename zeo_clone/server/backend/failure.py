"""A storage that has failed in a commit: does it hold its own lock still, and what has become of the
transaction (L9, C24)?

In: the storage, what is known of the transaction, the error.  Out: answers; the transaction's tid, or one of
two exceptions.  It knows nobody who commits.  Loop thread only.
"""
from __future__ import annotations

import contextlib
import logging
from typing import Any

from ZODB.interfaces import IMultiCommitStorage, IMVCCStorage
from ZODB.POSException import ConflictError
from ZODB.utils import p64, u64, z64

from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown
from zeo_clone.server.backend.iterators import end
from zeo_clone.server.backend.past import file_of
from zeo_clone.server.vocabulary import NothingCommitted

log = logging.getLogger(__name__)


# ---- its own lock -------------------------------------------------------------------------------

def would_wait(storage: Any) -> bool:
    """Would ``tpc_begin`` wait, perhaps for ever?"""
    try:
        locked = getattr(getattr(storage, '_commit_lock', None), 'locked', None)
        if locked is not None:  # as all of ZODB's own storages have it
            return bool(locked())
        return getattr(storage, 'tpc_transaction', lambda: None)() is not None
    except Exception:
        return True


def is_packing(storage: Any) -> bool:
    """Is it a pack, perhaps, that holds the lock?  At times a FileStorage's does."""
    return bool(getattr(storage, '_pack_is_in_progress', False))


# ---- the transaction ----------------------------------------------------------------------------

def outcome(storage: Any, known: bytes, unfinished: bytes | None, expected: bytes | None, error: Exception,
            shared: bool) -> bytes:
    """``tpc_finish`` raised `error` after the transaction `known`: the tid if it has committed all the same.

    `unfinished`: as `past.unfinished`; `expected`: the tid that it was to get, if that is known; `shared`:
    others write to the storage.  Raises `NothingCommitted` if that is proven, else `CommitOutcomeUnknown`.
    """
    if isinstance(error, CommitOutcomeUnknown):
        raise error
    if isinstance(error, (ClientDisconnected, ConflictError)):
        raise NothingCommitted(error)  # a storage that is a client of ours has found that out
    # Where others write too, the last transaction need not be ours, and what is seen of it may be late.
    shared = shared or IMVCCStorage.providedBy(storage) or IMultiCommitStorage.providedBy(storage)
    try:
        last, later = _last(storage, known, unfinished)
    except Exception:
        log.exception('it cannot be told what became of a transaction')
        last, later = z64, True
    if last == expected or expected is None and last > known and not shared:
        return last
    if later or shared:  # it is in the file, say, but the storage does not count on it
        raise CommitOutcomeUnknown(
            f'the storage failed while it committed: the transaction may or may not be there when it works '
            f'again. Look at the data before you repeat it ({type(error).__name__}: {str(error)[:1000]})'
        ) from error
    raise NothingCommitted(error)


def _last(storage: Any, known: bytes, unfinished: bytes | None) -> tuple[bytes, bool]:
    """The storage's last tid, and whether it has a transaction after `known`, for which it is read."""
    last = storage.lastTransaction() or z64
    if last == unfinished:
        last = known
    if last > known or not hasattr(storage, 'iterator'):
        return last, last > known
    if file_of(storage) is not None:
        with contextlib.suppress(Exception):  # closed: then this has been done
            storage.lastInvalidations(0)  # writes what the open file still holds back
    transactions = storage.iterator(p64(u64(known) + 1))
    try:
        return last, next(iter(transactions), None) is not None
    finally:
        end(transactions)
