"""The effects of transactions on a client: cache, database, last tid, in exactly this order.

`invalidate` and `finish` run in the reader's role, in wire order, one at a time.  For a transaction T the
cache is changed first, then the DB is told (or, for the committer, the callback of tpc_finish is called),
then the cache's last tid, which is ``lastTransaction()``, moves to T (C2).  Never in another order.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zeo_clone.interfaces import IClientCache
from zeo_clone.loop.runtime import REAL, Runtime


class Effects:
    """The one place in which a client's view of the database moves forward."""

    def __init__(self, cache: IClientCache, storage: object = None, runtime: Runtime = REAL) -> None:
        self.cache: Any = cache
        self.storage = storage  # for events
        self.db: Any = None  # ZODB's wrapper, from registerDB
        self._barrier = runtime.rlock()  # held while the effects of one transaction are under way
        # The transaction whose effects are under way.  A reader of a state after it that was answered
        # from the cache waits and looks again: to it all effects take place at once (C9).
        self.applying: bytes | None = None
        self._failed = False  # an effect was left half done

    def hold(self, timeout_s: float) -> bool:
        """Before a fork: wait until no effects are under way, and let none begin.  False: it took too long.
        """
        return self._barrier.acquire(timeout=timeout_s)

    def release(self) -> None:
        """After a successful `hold`."""
        self._barrier.release()

    def wait(self) -> None:
        """Any thread: wait until the effects of the transaction `applying` are all there."""
        with self._barrier:
            pass

    def invalidate(self, tid: bytes, oids: list[bytes]) -> None:
        """Another client committed `tid`.  Late news (a tid that is not new) changes nothing."""
        if tid <= self.cache.getLastTid():
            return
        with self._barrier:
            self.applying = tid
            try:
                self.cache.invalidateTransaction(tid, oids)
                if self.db is not None:
                    self.db.invalidate(tid, oids)
                self.cache.setLastTid(tid)
            except BaseException:
                self._failed = True
                raise
            finally:
                self.applying = None

    def finish(self, tid: bytes, records: Iterable[tuple[bytes, bytes | None]],
               callback: Callable[[bytes], Any] | None) -> None:
        """An own transaction was committed as `tid`; `records` as in ``IClientCache.applyCommit``."""
        with self._barrier:
            self.applying = tid
            try:
                self.cache.applyCommit(tid, records)
                if callback is not None:
                    callback(tid)
                self.cache.setLastTid(tid)
            except BaseException:
                self._failed = True
                raise
            finally:
                self.applying = None

    def finish_late(self, tid: bytes, callback: Callable[[bytes], Any] | None) -> None:
        """An own transaction turned out to be committed, after a reconnect.  Any thread.

        The verification that came before has treated it as somebody else's: the cache forgot what it wrote,
        the DB was told of it, and only then did the last tid move to it or beyond (C2).  So to every other
        connection all is done; what is left is the callback, by which the committer learns the tid.  It
        tells the DB once more, which changes nothing.
        """
        if callback is not None:
            with self._barrier:
                callback(tid)

    def catch_up(self, tid: bytes, oids: list[bytes]) -> None:
        """Verification: these oids changed in transactions up to `tid`, it is not known in which."""
        with self._barrier:
            for oid in oids:
                self.cache.invalidate(oid, None)
            if oids and self.db is not None:
                self.db.invalidate(tid, oids)
            self.cache.setLastTid(tid)

    def start_over(self, tid: bytes) -> None:
        """Verification: nothing in the cache can be trusted; go on with an empty one at `tid`."""
        with self._barrier:
            self.cache.clear()
            if self.db is not None:
                self.db.invalidateCache()
            self.cache.setLastTid(tid)

    def lost(self, error: Exception) -> None:
        """The link has gone.  If an effect failed (C17), open connections must look again."""
        if self._failed:
            if self.db is not None:
                self.db.invalidateCache()
            self._failed = False
