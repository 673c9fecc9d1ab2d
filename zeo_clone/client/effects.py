"""The effects of transactions on a client: cache, database, last tid, in exactly this order.

`invalidate` and `finish` run in the reader's role, in wire order, one at a time.  For a transaction T the
cache is changed first, then the DB is told (or, for the committer, the callback of tpc_finish is called),
then the last tid, which is ``lastTransaction()``, moves to T (C2).  Never in another order.  The cache's own,
from which the next process goes on, may be behind it, never ahead.

When everything may have changed, up to T, there are no oids to tell the DB.  ZODB's wrapper keeps two things
for each open connection: that all of its objects are out of date, and up to which tid it has heard; at its
next transaction the connection takes the first, once, and begins after the greater of the second and
``lastTransaction()``.  So (C23)::

    Effects.start_over                     a connection that has read lastTransaction() = S, before
    ------------------                     -------------------------------------------------------
    from here on lastTransaction() waits
    the cache is emptied
    db.invalidateCache()                   here: begins at S without its objects; they are out of date
                                                 once more at its next transaction, because of the last line
    db.invalidate(T, ())                   here: begins at T without its objects, as it must
    db.invalidateCache()                   here: likewise
    lastTransaction() is T                 later: likewise

With one call of ``invalidateCache`` less there is a place at which a connection goes on to T with objects of
S.  No other moment shows any other tid than S or T.
"""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from zeo_clone.client.caching import Cache
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.interfaces import IHearsMore
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.loop.throttle import Throttle

log = logging.getLogger(__name__)

#: For `Effects.applying`: nothing may be read from the cache.  Less than any tid.
EVERYTHING = b''
NO_DATABASE = bytes(16)


class Effects:
    """The one place in which a client's view of the database moves forward."""

    def __init__(self, cache: Cache, storage: object = None, runtime: Runtime = REAL) -> None:
        self.cache = cache
        self.storage = storage  # for events
        self.db: Any = None  # ZODB's wrapper, from registerDB ...
        self._exact: Any = None  # ... the same, if it can be told more exactly (`IHearsMore`)
        self.last_tid = cache.getLastTid()  # what lastTransaction() is
        database = getattr(cache, 'database', None)
        self.database = database if type(database) is bytes else NO_DATABASE  # the identity, as 16 bytes
        self._runtime = runtime
        self._barrier = runtime.rlock()  # held while the effects of one transaction are under way
        # The transaction whose effects are under way.  A reader of a state after it that was answered
        # from the cache waits and looks again: to it all effects take place at once (C9).
        self.applying: bytes | None = None
        self._starting_over: int | None = None  # the thread that tells the DB that anything may have changed
        self._refusal: Exception | None = None  # what is here is of another past than the server's
        self._failed = False  # an effect was left half done, and the DB does not know
        self.throttle = Throttle(runtime.monotonic)

    def tell(self, db: Any) -> None:
        """Any thread: `db` is told from now on.  Never amid a transaction, of which it would be told nothing
        and see a part."""
        with self._barrier:
            self.db = db
            self._exact = db if IHearsMore.providedBy(db) else None

    def hold(self, timeout_s: float) -> bool:
        """Before a fork: wait until no effects are under way, and let none begin.  False: it took too long.
        """
        return self._barrier.acquire(timeout=timeout_s)

    def release(self) -> None:
        """Let effects happen again, after a successful `hold`."""
        self._barrier.release()

    def wait(self) -> None:
        """Any thread: wait until the effects of the transaction `applying` are all there.

        Raises `ClientDisconnected` if nothing that is here may be read.
        """
        with self._barrier:
            refusal = self._refusal
        if refusal is not None:
            raise ClientDisconnected(str(refusal)) from refusal

    def last_transaction(self) -> bytes:
        """Any thread: the last transaction whose effects are all there.  Never less than before (C23), unless
        a cache of another past was dropped because its owner said so."""
        while True:
            tid = self.last_tid
            if self._starting_over is None or self._starting_over == self._runtime.get_ident():
                return tid
            with self._barrier:
                pass

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Around effects of which none may be missing."""
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def invalidate(self, tid: bytes, oids: list[bytes], more: bool = False) -> None:
        """Another client committed `tid`.  Late news (a tid that is not new) changes nothing.

        If `more` follow at once, the cache's own last tid moves with the last of them: a file under it says
        the tid with each move, and one that lags is of things that are heard of again.
        """
        if tid <= self.last_tid:
            return
        with self._barrier:
            self.applying = tid
            try:
                self.cache.invalidateTransaction(tid, oids)
                if self.db is not None:
                    self.db.invalidate(tid, oids)
                if not more:
                    self.cache.setLastTid(tid)
                self.last_tid = tid
            except BaseException:
                self._failed = True
                raise
            finally:
                self.applying = None

    def finish(self, tid: bytes, records: Iterable[tuple[bytes, bytes | None]],
               callback: Callable[[bytes], Any] | None) -> None:
        """An own transaction was committed as `tid`; `records` as in ``IClientCache.applyCommit``.

        What the cache or the callback raise is not the caller's problem: his transaction is committed (C24).
        """
        with self._barrier:
            self.applying = tid
            try:
                self._in_cache(self.cache.applyCommit, tid, records)
                if callback is not None:
                    self._call_back(callback, tid)
                self._in_cache(self.cache.setLastTid, tid)
                self.last_tid = tid
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
                self._call_back(callback, tid)

    def _in_cache(self, change: Callable[..., object], *args: Any) -> None:
        """Change the cache.  If it cannot, it goes: an empty one is never wrong."""
        try:
            change(*args)
        except Exception as error:
            self._complain(error, 'the client cache cannot be changed as it must, and is emptied')
            self._empty_cache()

    def _empty_cache(self) -> None:
        try:
            self.cache.clear()
        except Exception as error:
            if len(self.cache):
                raise
            self._complain(error, 'the client cache is empty now, but its file is as it was before')

    def _complain(self, error: Exception, text: str, *args: object) -> None:
        self.throttle.report(log, logging.ERROR, text, '', text, *args, error=error)

    def _call_back(self, callback: Callable[[bytes], Any], tid: bytes) -> None:
        """Tell the committer the tid.  If that fails, nobody knows who has heard of what."""
        try:
            callback(tid)
        except Exception as error:
            self._complain(error, 'the callback of tpc_finish failed; the transaction is committed as %s',
                           tid.hex())
            self._tell_all_changed(max(tid, self.last_tid))

    def _tell_all_changed(self, tid: bytes) -> None:
        """Tell the DB that everything may have changed in transactions up to `tid`; see above."""
        self._starting_over = self._runtime.get_ident()
        try:
            if self._exact is not None:
                self._exact.started_over(tid)
            elif self.db is not None:
                self.db.invalidateCache()
                self.db.invalidate(tid, [])
                self.db.invalidateCache()
            self.last_tid = tid
        except BaseException:
            self._failed = True
            raise
        finally:
            self._starting_over = None

    def forget(self, oids: Iterable[bytes]) -> None:
        """Any thread: it is not known whether a transaction that wrote `oids` is committed.  Whoever reads
        them from now on asks the server."""
        oids = list(oids)
        with self._barrier:
            try:
                for oid in oids:
                    self.cache.invalidate(oid, None)
                if self.db is not None:
                    self.db.invalidate(self.last_tid, oids)
            except Exception as error:
                self._complain(error, 'objects of a transaction of which nobody knows whether it is committed'
                               ' could not be forgotten; everything is')
                self._empty_cache()
                self._tell_all_changed(self.last_tid)

    def catch_up(self, tid: bytes, oids: list[bytes]) -> None:
        """Verification: these oids changed in transactions up to `tid`, it is not known in which."""
        with self._barrier, self._whole():
            for oid in oids:
                self.cache.invalidate(oid, None)
            if self._exact is not None:
                self._exact.caught_up(tid, oids)
            elif oids and self.db is not None:
                self.db.invalidate(tid, oids)
            self.cache.setLastTid(tid)
            self.last_tid = tid

    def start_over(self, tid: bytes) -> None:
        """Verification: nothing in the cache can be trusted; go on with an empty one at `tid`."""
        with self._barrier, self._whole():
            self._starting_over = self._runtime.get_ident()
            try:
                self._empty_cache()
                self._in_cache(self.cache.setLastTid, tid)
                self._tell_all_changed(tid)
            finally:
                self._starting_over = None

    def verified(self, database: bytes) -> None:
        """Verification: what is here is true of a server's database; `database` as the attribute."""
        if database not in (NO_DATABASE, self.database):
            self.database = database
            if hasattr(self.cache, 'database'):
                self._in_cache(setattr, self.cache, 'database', database)
        if self._refusal is not None:
            self._refusal = self.applying = None

    def refuse(self, error: Exception) -> None:
        """Verification: what is here is of a past that the database has lost.  Nobody reads it any more,
        until a server is found to which it is no other past."""
        with self._barrier:
            news, self._refusal, self.applying = self._refusal is None, error, EVERYTHING
            if news and self.db is not None:
                self.db.invalidateCache()

    def lost(self, error: Exception) -> None:
        """The link has gone.  If an effect failed (C17), open connections must look again."""
        self.reassure()

    def reassure(self) -> None:
        """If an effect failed, have open connections look again.

        A DB that cannot hear of it keeps nobody from finding the next server: what failed is done again by
        the verification there, and the DB is told anew before that and after the next loss.
        """
        if not self._failed:
            return
        try:
            if self.db is not None:
                self.db.invalidateCache()
        except Exception as error:
            more = self.throttle.admits(type(error).__name__)
            log.log(logging.DEBUG if more is None else logging.ERROR,
                    'the database could not be told to look at all of its objects again, and will be asked '
                    'once more%s', more or '', exc_info=True)
        else:
            self._failed = False
