"""ClientStorage: a ZODB storage whose data live on a server.

Application threads call in.  The reading half is in `reading`, the phases of a commit are in `commit`.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import zope.interface
from ZODB import interfaces
from ZODB.POSException import ReadOnlyError, Unsupported
from ZODB.utils import z64

from zeo_clone.client.arguments import arguments, check_names, method_takes
from zeo_clone.client.commit import Phase
from zeo_clone.client.copying import copy_transactions
from zeo_clone.client.engine import Engine
from zeo_clone.client.link import Link
from zeo_clone.client.notices import check_oids
from zeo_clone.client.options import make_options
from zeo_clone.client.reading import StorageReader
from zeo_clone.client.world import REAL_WORLD
from zeo_clone.Exceptions import UnrecognizedResult
from zeo_clone.interfaces import IAnswersLater
from zeo_clone.steps import take_steps
from zeo_clone.zrpc.offers import MAX_NEW_OIDS

log = logging.getLogger(__name__)


@zope.interface.implementer(interfaces.IStorage, interfaces.IMultiCommitStorage, IAnswersLater)
class ClientStorage(StorageReader):
    """A storage that is served by a StorageServer."""

    @method_takes(arguments)
    def __init__(self, *positional: Any, **keywords: Any) -> None:
        """Connect.  Raises TypeError and ValueError for wrong arguments, and, if it is to wait,
        `ClientDisconnected` after `wait_timeout` seconds."""
        check_names(keywords)
        given = arguments(*positional, **keywords)
        addr, storage = given['addr'], given['storage']
        if isinstance(addr, str) and isinstance(storage, int):
            raise TypeError(f"ClientStorage({addr!r}, {storage!r}): the second is a storage's name. "
                            f'Give host and port as one: ClientStorage(({addr!r}, {storage!r}))')
        super().__init__(make_options(given), given['world'] or REAL_WORLD)
        try:
            if self._options.wait:
                self._manager.link(self._options.wait_timeout_s)
        except BaseException:
            self.close()
            raise

    def _writable(self) -> Engine:
        """The engine, for something that writes."""
        engine = self._own()
        if self._options.read_only or engine.places.is_read_only():
            raise ReadOnlyError()
        return engine

    def _link_to_write(self) -> Link:
        """The link in use; waits for one."""
        engine = self._own()
        link = engine.places.usable() or engine.manager.link(self._options.wait_timeout_s)
        self._writable()
        return link

    def manager_lost(self, link: Link) -> None:
        """Called by the manager: `link` has gone.  Its server may hand out the same oids again (C13)."""
        engine = self._engine
        with engine.oids_lock:
            engine.oids.clear()

    # ---- commits ------------------------------------------------------------------------------------

    def new_oid(self) -> bytes:
        """An oid that nobody has or will get (C13)."""
        engine = self._writable()
        with engine.oids_lock:
            if engine.oids:
                return engine.oids.pop()
        link = self._link_to_write()
        oids = check_oids(link.channel.call('new_oids', (MAX_NEW_OIDS,)))[:MAX_NEW_OIDS]
        if not oids:
            raise UnrecognizedResult('the server answered new_oids with an empty list')
        oids.reverse()
        oid = oids.pop()
        with engine.oids_lock:
            if link is engine.places.ready:
                engine.oids[:0] = oids
        return oid

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = ' ') -> None:
        """Begin a two-phase commit; waits while another one of this storage is under way."""
        engine = self._writable()
        engine.committing.begin(transaction, self._link_to_write, tid, status)

    def store(self, oid: bytes, serial: bytes | None, data: bytes, version: str,
              transaction: Any) -> None:
        """Write an object; conflicts are raised by `tpc_vote`."""
        engine = self._writable()
        if version:
            raise Unsupported('versions')
        engine.committing.begun(transaction).store(oid, serial or z64, data)

    def checkCurrentSerialInTransaction(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        """Have `tpc_vote` fail with ReadConflictError if `serial` is not current."""
        self._own().committing.begun(transaction).send('checkCurrentSerialInTransaction', oid, serial)

    def restore(self, oid: bytes, serial: bytes, data: bytes | None, version: str,
                prev_txn: bytes | None, transaction: Any) -> None:
        """Write a record that was committed elsewhere by transaction `serial`, without any check."""
        engine = self._writable()
        if version:
            raise Unsupported('versions')
        engine.committing.begun(transaction).write('restorea', oid, None, serial, data, prev_txn)

    def deleteObject(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        """Delete an object whose current revision is `serial`; errors are raised by `tpc_vote`."""
        engine = self._writable()
        engine.committing.begun(transaction).write('deleteObject', oid, None, serial)

    def undo(self, transaction_id: bytes, transaction: Any) -> None:
        """Undo a transaction; `tpc_vote` returns the oids concerned, or raises UndoError."""
        engine = self._writable()
        engine.committing.begun(transaction).send('undoa', transaction_id)

    def tpc_vote(self, transaction: Any) -> list[bytes]:
        """Have the server carry it out; returns the oids whose data the server has changed.

        Raises ConflictError, ReadConflictError, UndoError, `ClientDisconnected`, ...
        """
        engine = self._own()
        begun = engine.committing.begun(transaction)
        engine.committing.phase = voted = begun.vote(engine.effects, self.tryToResolveConflict)
        return voted.changed

    def tpc_finish(self, transaction: Any, func: Callable[[bytes], Any] | None = None) -> bytes:
        """Commit; returns the tid.  `func` is called with it before any later effect.

        Raises `ClientDisconnected` if certainly nothing, `CommitOutcomeUnknown` if perhaps everything
        was committed.  If the reply is lost it waits for the next connection, to find out.
        """
        engine = self._own()
        voted = engine.committing.voted(transaction)
        try:
            tid = voted.finish(engine.effects, func, engine.inquire)
            if voted.blobs and engine.blobs is not None:
                try:
                    engine.blobs.committed(voted.blobs, tid)
                except Exception as error:  # the server has them (C24)
                    what = 'committed blobs cannot be kept in the blob cache'
                    engine.effects.throttle.report(log, logging.ERROR, what, '', what, error=error)
            return tid
        finally:
            self._end(engine, voted)

    def tpc_abort(self, transaction: Any, timeout: float | None = None) -> None:
        """Give up `transaction`; nothing if it is not the one being committed."""
        engine = self._own()
        phase = engine.committing.phase
        if phase is None or phase.transaction is not transaction:
            return
        try:
            phase.abort()
        finally:
            self._end(engine, phase)

    def _end(self, engine: Engine, phase: Phase) -> None:
        engine.committing.end()  # others wait for it
        if phase.blobs and engine.blobs is not None:
            take_steps(f'the end of a transaction of {self.__name__}',
                       partial(engine.blobs.discard, phase.blobs))

    def tpc_transaction(self) -> Any:
        """The transaction that is being committed, or None."""
        phase = self._own().committing.phase
        return None if phase is None else phase.transaction

    def voted_tid(self, transaction: Any) -> bytes | None:
        """After `tpc_vote`: the tid that it will get; None if the server has not said it (`IAnswersLater`).
        """
        return self._own().committing.voted(transaction).tid

    def storeBlob(self, oid: bytes, serial: bytes | None, data: bytes, blobfilename: str, version: str,
                  transaction: Any) -> None:
        """Write an object with a blob; the file is taken over."""
        self._writable()
        if version:
            raise Unsupported('versions')
        self._blob_files().store(self._own().committing.begun(transaction), oid, serial or z64, data,
                                 blobfilename)

    # ---- copying and packing ------------------------------------------------------------------------

    def copyTransactionsFrom(self, other: Any, verbose: Any = 0) -> None:
        """Append all transactions of the storage `other`, blobs included."""
        copy_transactions(other, self, verbose, self._runtime)

    def pack(self, t: Any = None, referencesf: Any = None, wait: int = 1, days: float = 0) -> None:
        """Remove what is older than `t` (seconds since the epoch; default now) less `days` days.

        With `wait` false the server packs in the background.  `referencesf` is the server's own.
        """
        if t is None:
            t = self._runtime.time()
        elif hasattr(t, 'timeTime'):  # a TimeStamp, which is a class in Python and a function in C
            t = t.timeTime()
        self._loader.link().channel.call('pack', (t - days * 86400, wait))

    def cleanup(self) -> None:
        """For old tests: a client has nothing to remove."""

