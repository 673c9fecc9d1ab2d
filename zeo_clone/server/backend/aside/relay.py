"""All that is asked of a storage that has a server of its own: a ClientStorage, whose server is *above*.

In and out: as in `backend.Backend`.  Hits of its cache are answered at once, whatever has become of the
server above; misses are sent without waiting, equal ones once, and answered when the answer comes, or refused
when the storage's patience is over.  What is known without the server is asked in the loop; the rest in
threads, of which nobody else has to wait for.  Loop thread only, apart from what is handed to threads.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import IO, Any

from ZODB.utils import p64, u64
from zope.interface import implementer

from zeo_clone.interfaces import IAnswersLater, IHearsMore
from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.aside.backend import AsideBackend
from zeo_clone.server.backend.aside.commit import AsideCommit
from zeo_clone.server.backend.backend import Backend
from zeo_clone.server.backend.flights import Revision
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.wrapper import StorageWrapper
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.stats import Stats
from zeo_clone.steps import take_steps

#: The status of a transaction that no pack has been at.
UNPACKED = ' '
#: After a time without the server above, so many transactions are looked at one by one, ...
MOST_MISSED = 1000
#: ... with so many bytes of data, and no more.
MOST_DATA = 32 << 20

Written = tuple[bytes, list[bytes]]


def is_relayed(storage: Any) -> bool:
    """Has `storage` a server of its own, of which it can ask without waiting?"""
    return IAnswersLater.providedBy(storage) and bool(storage.answers_later)


@implementer(IHearsMore)
class RelayWrapper(StorageWrapper):
    """What is registered with the storage: is told more exactly what happened above."""

    def __init__(self, guard: Guard, on_invalidate: Callable[[bytes, list[bytes]], object],
                 on_reset: Callable[[], object], caught_up: Callable[[bytes, list[bytes]], object],
                 started_over: Callable[[bytes], object]) -> None:
        super().__init__(guard, on_invalidate, on_reset)
        self._caught_up = caught_up
        self._started_over = started_over

    def caught_up(self, tid: bytes, oids: list[bytes]) -> None:
        """See `IHearsMore`."""
        self._caught_up(tid, list(oids))

    def started_over(self, tid: bytes) -> None:
        """See `IHearsMore`."""
        self._started_over(tid)


class RelayCommit(AsideCommit):
    """A transaction above."""

    @property
    def coming_tid(self) -> bytes | None:
        """After the vote: the tid that it will get, if the server above says it."""
        tid: bytes | None = self._storage.voted_tid(self._transaction)
        return tid


class RelayBackend(AsideBackend):
    """Of `storage`, which messages call `name`.  Raises ValueError if it cannot be served."""

    threads_are_safe = True

    def __init__(self, loop: Loop, name: str, storage: Any, guard: Guard, stats: Stats) -> None:
        super().__init__(loop, name, storage, guard, stats)
        self.commit_class = partial(RelayCommit, self._parts)
        self.hits = self.misses = 0

    def start_relay(self, heard: Callable[[bytes, list[bytes]], object], lost_track: Callable[[], object],
                    caught_up: Callable[[bytes, list[bytes]], object],
                    started_over: Callable[[bytes], object]) -> None:
        """Have the storage tell what happens above, in whatever thread it uses."""
        self.failures.has_other_writers = True
        self._storage.registerDB(RelayWrapper(self._guard, heard, lost_track, caught_up, started_over))

    def close(self) -> None:
        """At the end: what commits gets to its end; who else waits for the server above waits no longer."""
        take_steps(f'the end of storage {self._name!r}', self._committer.close, self._storage.close,
                   super().close)

    # ---- what it is: known without the server above ----------------------------------------------------

    info = Backend.info
    describe = Backend.describe

    @property
    def is_read_only(self) -> bool:
        """Takes it no commits?"""
        return bool(self._storage.isReadOnly())

    def look(self) -> None:
        """There is nothing to ask."""

    def ask_now(self) -> Deferred:
        """Nothing either."""
        done = Deferred()
        done.succeed(None)
        return done

    # ---- reading ----------------------------------------------------------------------------------

    def loadBefore(self, oid: bytes, tid: bytes) -> Revision | Deferred:
        """At once, from the cache, or later."""
        found: Revision | None = self._storage.load_at_once(oid, tid)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        return self._loads.load(oid, tid)

    def _start_load(self, oid: bytes, tid: bytes) -> None:
        self._storage.load_later(oid, tid, partial(self._arrived, oid, tid))

    def _arrived(self, oid: bytes, tid: bytes, revision: Any, error: BaseException | None) -> None:
        """Any thread."""
        self._loop.door(partial(self._loads.arrived, oid, tid, revision, error))

    def _read_in_worker(self, oid: bytes, tid: bytes) -> Any:
        # Whose class is asked for is loaded often, and so mostly here; nobody waits for the server above.
        return self._storage.load_at_once(oid, tid) or (b'', tid, None)

    def open_blob(self, oid: bytes, serial: bytes) -> IO[bytes]:
        """Worker thread: the file of a blob, before the clean-up of the cache can remove it (B6)."""
        file: IO[bytes] = self._storage.openCommittedBlobFile(oid, serial)
        return file

    def ping(self) -> Deferred:
        """Settled when all has come through the loop's door that was committed above by now."""
        answer = Deferred()
        self._storage.ping_later(lambda _, error: self._loop.door(partial(answer.settle, None, error)))
        return answer

    def missed(self, after: bytes, until: bytes, oids: list[bytes]) -> Deferred:
        """Transactions later than `after`, up to `until`, which wrote `oids`: `Written`; None: not known."""
        return self.ask(partial(self._storage.read_transactions, p64(u64(after) + 1), until,
                                partial(find_missed, until, set(oids), self._storage.supportsUndo())))

    # ---- the status -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the status says of the cache and of the server above.  Any thread."""
        away_s, cache = self._storage.away_s(), self._storage.cache_stats()
        return {'connected': away_s is None, 'away': away_s, 'hits': self.hits, 'misses': self.misses,
                'waiting': len(self._loads), 'cache_bytes': cache['used'],
                'cache_objects': cache['objects'], 'cache_size': cache['capacity']}


def find_missed(until: bytes, oids: set[bytes], has_undo: bool, transactions: Iterable[Any]
                ) -> list[Written] | None:
    """`transactions`, the last of which is to be `until`, and which are to have written all `oids`.

    Where a pack has been records may be missing, of objects that were written again, and whole transactions.
    With undo all that are left up to the pack's time have its mark: they could not be undone any more.  A
    storage without undo, in memory say, may leave none; if there is one transaction only, what is missing was
    written again there.  (To tell all with the first, as the feed of a database does, would be safe too, but
    caches would say of objects that they ended too early.)
    """
    found: list[Written] = []
    size = 0
    for transaction in transactions:
        if transaction.status != UNPACKED or found and not has_undo:
            return None
        written = []
        for record in transaction:
            written.append(record.oid)
            size += len(record.data or b'')
        found.append((transaction.tid, written))
        if len(found) > MOST_MISSED or size > MOST_DATA:
            return None
    complete = found and found[-1][0] == until and oids <= {oid for _, some in found for oid in some}
    return found if complete else None
