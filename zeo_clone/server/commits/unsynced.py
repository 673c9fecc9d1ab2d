"""Commits that the storage has finished and that are not on the disk yet (D2).

In: finished commits, in the order of their tids; from the syncer, in the loop's thread, how far the disk has
come.  Out: in the same order, those that are durable, all at once; or the error that keeps them from it.
Until then nobody is told of them, and nobody sees them.  Loop thread only; it knows neither sockets nor
storages.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ZODB.POSException import StorageError

from zeo_clone.Exceptions import CommitOutcomeUnknown
from zeo_clone.server.deferred import Deferred


class Finished(NamedTuple):
    """Transaction `tid` of `committer` wrote `oids`; `reply`, for whoever waits, gets the tid."""

    tid: bytes
    oids: list[bytes]
    committer: Any
    reply: Deferred


class Syncs(Protocol):
    """What brings transactions to the disk."""

    @property
    def quick(self) -> bool:
        """Is it best to wait for a sync?"""

    def sync_at_once(self) -> bytes:
        """Sync all that is finished, and wait: the last tid.  Raises OSError."""

    def request(self) -> None:
        """Have it synced, and `Unsynced.synced` called."""


class Unsynced:
    """`tell` tells all the world of commits that are durable, and `failed` of an error; `hide` takes the
    first tid that nobody may see, or None."""

    def __init__(self, syncs: Syncs, hide: Callable[[bytes | None], object],
                 tell: Callable[[list[Finished]], object], failed: Callable[[Exception], object]) -> None:
        self._syncs = syncs
        self._hide = hide
        self._tell = tell
        self._failed = failed
        self._finished: deque[Finished] = deque()
        self._waiting: deque[tuple[bytes, Deferred]] = deque()  # until this transaction is on the disk
        self._hidden: bytes | None = None  # the first transaction that nobody may see
        self._error: Exception | None = None  # since it nothing is durable any more
        self.latest: bytes | None = None  # the last transaction that was finished here

    def __repr__(self) -> str:
        return f'<Unsynced {len(self)}>'

    def __len__(self) -> int:
        return len(self._finished)

    @property
    def hides_some(self) -> bool:
        """Is there a transaction that nobody may see?  Any thread."""
        return self._hidden is not None

    def check(self) -> None:
        """May a transaction begin?  Raises StorageError after an error (D3)."""
        if self._error is not None:
            raise StorageError(
                f'the storage takes no more transactions, for it could not be synced to the disk: '
                f'{self._error}. Look after the disk, then restart the server')

    def begin(self, tid: bytes) -> None:
        """The storage is about to finish transaction `tid`."""
        if self._hidden is None:
            self._hide_from(tid)

    def cancel(self) -> None:
        """It did not finish it, after all."""
        if not self._finished and self._error is None:
            self._hide_from(None)

    def _hide_from(self, tid: bytes | None) -> None:
        self._hidden = tid
        self._hide(tid)

    def add(self, finished: Finished) -> None:
        """It has finished the transaction, which is on the disk at once if syncs are quick."""
        self.latest = finished.tid
        self._finished.append(finished)
        try:
            if len(self._finished) > 1 or not self._syncs.quick:
                self._syncs.request()
                return
            tid = self._syncs.sync_at_once()
        except Exception as error:  # the disk's; or no thread can be started
            self.synced(None, error)
        else:
            self.synced(tid, None)

    def synced(self, tid: bytes | None, error: Exception | None) -> None:
        """All up to `tid` is on the disk; or there was an error, and nothing more will ever be."""
        error = error if self._error is None else self._error
        if error is not None:
            self._break(error)
        elif tid is not None and self._finished and self._finished[0].tid <= tid:
            group = []
            while self._finished and self._finished[0].tid <= tid:
                group.append(self._finished.popleft())
            self._hide_from(self._finished[0].tid if self._finished else None)
            self._tell(group)
        while self._waiting and (not self._finished or self._waiting[0][0] < self._finished[0].tid):
            self._waiting.popleft()[1].succeed(None)

    def _break(self, error: Exception) -> None:
        """Fail what is under way.  What is hidden stays so: nobody was told of it."""
        finished, self._finished = self._finished, deque()
        if self._error is None:
            self._error = error
            self._failed(error)
        for one in finished:
            one.reply.fail(unknown(error))

    def when_on_disk(self) -> Deferred:
        """Settled as soon as nothing is on its way to the disk of what is now; what comes later is not waited
        for, as there may be no end of it.
        """
        deferred = Deferred()
        if self._finished:
            self._waiting.append((self._finished[-1].tid, deferred))
        else:
            deferred.succeed(None)
        return deferred


def unknown(error: Exception) -> CommitOutcomeUnknown:
    """What the client of such a commit is told."""
    return CommitOutcomeUnknown(
        f'the transaction could not be synced to the disk: it may or may not be there when the server has '
        f'been restarted. Look at the data before you repeat it ({type(error).__name__}: {error})')
