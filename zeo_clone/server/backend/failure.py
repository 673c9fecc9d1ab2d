"""A storage that has failed in a commit: its lock is got free, and what became of the transaction found out
(L9, C24).

In: a transaction in the storage, what is known of it, the error.  Out: the transaction's tid, or one of two
exceptions; a refusal of commits while the storage does not let go of one.  It knows nobody who commits.  Loop
thread only.
"""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from ZODB.POSException import ConflictError, StorageError
from ZODB.utils import p64, u64, z64

from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown
from zeo_clone.loop.throttle import Throttle
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.server.backend.iterators import end
from zeo_clone.server.backend.packing import Packing
from zeo_clone.server.vocabulary import NothingCommitted

log = logging.getLogger(__name__)

#: A storage that does not let go of a transaction is asked so often each time: a file system may have been
#: away for a moment.
ABORT_ATTEMPTS = 2
#: Characters of an error's text that are kept for the status.
MAX_TEXT = 1000


class InStorage(Protocol):
    """A transaction in the storage."""

    @property
    def expected(self) -> bytes | None:
        """Since the vote: the tid that it is to get, if that is known."""

    def abort(self) -> None:
        """``tpc_abort``."""


class Failures:
    """The failures of `storage`, which the log calls `name`."""

    def __init__(self, name: str, storage: Any, abilities: Abilities, packing: Packing,
                 throttle: Throttle) -> None:
        self._name = name
        self._storage = storage
        self._abilities = abilities
        self._packing = packing
        self._throttle = throttle
        self.latest: str | None = None  # what the storage failed in; until its next success
        self.has_other_writers = abilities.has_many_writers  # a new tid need not be one of ours
        self.unfinished: bytes | None = None  # as `past.unfinished`
        #: What it could not abort: tpc_begin would wait for ever.
        self.stuck: InStorage | None = None

    def __repr__(self) -> str:
        return f'<Failures of {self._name!r}: {self.latest}>'

    def check(self) -> None:
        """May a commit begin?  Raises StorageError."""
        if self.stuck is not None:
            self._recover(self.stuck)  # perhaps it lets go by now
        if self.stuck is not None:
            raise StorageError(f'storage {self._name!r} has failed and is stuck in a transaction, which each '
                               f'commit tries to end; if it stays so, restart the server: {self.latest}')

    def abort(self, commit: InStorage) -> None:
        """Abort in the storage.  Never raises (L9)."""
        try:
            commit.abort()
        except Exception as error:
            self._failed('tpc_abort', error)
            self._recover(commit)

    def finish_failed(self, commit: InStorage, error: Exception, known: Callable[[], bytes]) -> bytes:
        """``tpc_finish`` raised `error`: get the storage's own lock free, then look at what it holds (C24).

        The tid if the storage has committed nevertheless.  `known`: the last transaction that was told.
        Raises `NothingCommitted` if it certainly has not, and `CommitOutcomeUnknown`.
        """
        usual = _is_known(error)
        if not usual:
            self._failed('tpc_finish', error)
        self.abort(commit)
        self._recover(commit)
        if usual:
            raise NothingCommitted(error)
        return self._outcome(known(), commit.expected, error)

    def _recover(self, commit: InStorage) -> None:
        """The storage has failed in `commit`: if it holds its own lock still, have it let go.

        Never twice: a pack takes the same lock, and could lose it to a second ``tpc_abort``.
        """
        abilities = self._abilities
        for _ in range(ABORT_ATTEMPTS):
            packing = self._packing.under_way or abilities.is_packing()
            if abilities.would_wait() and not packing:
                try:
                    commit.abort()
                except Exception as error:
                    self._failed('tpc_abort', error)
        self.stuck = commit if abilities.would_wait() else None

    def sync_failed(self, error: Exception) -> None:
        """What was committed cannot be brought to the disk (D3)."""
        self._failed('sync', error)

    def _failed(self, what: str, error: Exception) -> None:
        self.latest = f'{what}: {type(error).__name__}: {str(error)[:MAX_TEXT]}'
        self._throttle.report(log, logging.CRITICAL, f'{what}: {type(error)}', self._name,
                              'storage %r failed in %s', self._name, what, error=error)

    # ---- what became of the transaction -------------------------------------------------------------

    def _outcome(self, known: bytes, expected: bytes | None, error: Exception) -> bytes:
        if isinstance(error, CommitOutcomeUnknown):
            raise error
        # Where others write too, the last transaction need not be ours, and what is seen of it may be late.
        shared = self.has_other_writers
        try:
            last, later = self._last(known)
        except Exception:
            log.exception('it cannot be told what became of a transaction')
            last, later = z64, True
        if last == expected or expected is None and last > known and not shared:
            return last
        if later or shared:  # it is in the file, say, but the storage does not count on it
            raise CommitOutcomeUnknown(
                f'the storage failed while it committed: the transaction may or may not be there when it '
                f'works again. Look at the data before you repeat it ({type(error).__name__}: '
                f'{str(error)[:MAX_TEXT]})') from error
        raise NothingCommitted(error)

    def _last(self, known: bytes) -> tuple[bytes, bool]:
        """The storage's last tid, and whether it has a transaction after `known`, for which it is read."""
        last = self._storage.lastTransaction() or z64
        if last == self.unfinished:
            last = known
        if last > known or not self._abilities.has('iterator'):
            return last, last > known
        if self._abilities.file is not None:
            with contextlib.suppress(Exception):  # closed: then this has been done
                self._storage.lastInvalidations(0)  # writes what the open file still holds back
        transactions = self._storage.iterator(p64(u64(known) + 1))
        try:
            return last, next(iter(transactions), None) is not None
        finally:
            end(transactions)


def _is_known(error: Exception) -> bool:
    """Is it known that nothing was committed, and nothing wrong with the storage?  One that is a client of
    ours finds that out, when its server has gone for instance."""
    return isinstance(error, (ClientDisconnected, ConflictError))
