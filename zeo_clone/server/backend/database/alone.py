"""RelStorage on SQLite as an ordinary storage, for one server: no snapshots, no polling.

In: a RelStorage that is open, calls of one server.  Out: what a storage answers, as of now; of what another
process has written nevertheless, an invalidation.  Commits are steps of the RelStorage itself, in one thread
at a time; what is current is asked of SQLite directly, in any thread; logs, blobs and packs get instances of
their own.

    tpc_begin   what others wrote is told, before anything is compared
    tpc_vote    SQLite's one lock for writers, from here to the end; conflicts are found, and resolved with
                records of the database; all is written, under the tid that the transaction will have
    tpc_finish  COMMIT

What is private in RelStorage is used with the versions that `kinds` knows.  SQLite serves one machine,
and a lock file one server; another process is noticed by the last tid.
"""
from __future__ import annotations

import base64
import contextlib
import logging
import os
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ZODB import interfaces
from ZODB.POSException import (
    ConflictError,
    POSKeyError,
    StorageError,
    StorageTransactionError,
    UndoError,
    Unsupported,
)
from ZODB.utils import maxtid, p64, u64, z64
from zope.interface import alsoProvides, implementer

from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.throttle import Throttle
from zeo_clone.server.backend.database.instances import Instances, Transactions
from zeo_clone.server.backend.database.records import Records
from zeo_clone.server.backend.database.relstorage import IDENTIFY, MOST, Past, nearest, number_of, record_of
from zeo_clone.steps import take_steps

log = logging.getLogger(__name__)

#: In the directory of the database: the server that has it.
LOCK = 'zeo_clone.lock'
#: Without history: bytes of records that were replaced, to resolve conflicts with.
KEPT = 16 << 20
#: So many changed oids are told; with more, anything may have changed.
MOST_CHANGED = 100_000
#: SQLite waits for the disk at each commit, unless the configuration says something else.
SYNCHRONOUS = ('synchronous', 2)

Revision = tuple[bytes, bytes, 'bytes | None']


class Statements:
    """What is asked, with history or without."""

    revision = 'SELECT state FROM object_state WHERE zoid = %s AND tid = %s'

    def __init__(self, keeps_history: bool) -> None:
        transactions = '"transaction"' if keeps_history else 'object_state'
        current = 'current_object JOIN object_state USING (zoid, tid)' if keeps_history else 'object_state'
        self.last = f'SELECT coalesce(max(tid), 0) FROM {transactions}'
        self.has = f'SELECT 1 FROM {transactions} WHERE tid = ? LIMIT 1'
        self.before = '''
            SELECT state, tid, (SELECT min(tid) FROM object_state AS later
                                WHERE later.zoid = found.zoid AND later.tid > found.tid)
            FROM object_state AS found WHERE zoid = ? AND tid < ? ORDER BY tid DESC LIMIT 1'''
        self.any = 'SELECT 1 FROM object_state WHERE zoid = ? LIMIT 1'
        self.from_oid = (f'SELECT zoid, tid, state FROM {current} WHERE zoid >= ? AND state IS NOT NULL '
                         f'ORDER BY zoid LIMIT 2')
        self.changes = 'SELECT tid, zoid FROM object_state WHERE tid > ? AND tid <= ? ORDER BY tid LIMIT ?'
        self.packed = 'SELECT packed FROM "transaction" WHERE tid = ?'
        #: Is there a pack up to `tid` or later?  With history: its list is filled before it removes anything.
        self.packs = 'SELECT 1 FROM pack_object WHERE keep_tid >= ? LIMIT 1'
        self.highest_oid = 'SELECT coalesce(max(zoid), 0) FROM object_state'


@implementer(interfaces.IStorage, interfaces.IStorageIteration, interfaces.IStorageRestoreable,
             interfaces.IStorageCurrentRecordIteration, interfaces.IExternalGC)
class Alone:
    """A RelStorage on SQLite without history.  Raises ``LockError`` if another server has it.

    It is closed before the RelStorage itself is.
    """

    keeps_history = False
    #: Loads may come in several threads, beside a commit.
    thread_safe = True

    def __init__(self, storage: Any, runtime: Runtime) -> None:
        import sqlite3
        self._error = sqlite3.Error
        self._storage = storage
        self._adapter = storage._adapter
        self._statements = Statements(self.keeps_history)
        self._throttle = Throttle(runtime.monotonic)
        self._reading = runtime.lock()  # protects _connection
        self._looking = runtime.lock()  # protects _seen; held while one of ours is committed
        self._replaced = Records(KEPT)
        self._wrapper: Any = None  # since `registerDB`: who is told what others wrote
        self._transaction: Any = None
        self._state: Any = None  # RelStorage's of this transaction; stays if it is not committed
        self._given: bytes | None = None  # the tid that was given to this transaction
        self._kind: str | None = None  # of what it does
        self._stored: list[bytes] = []
        self._undone: set[bytes] = set()
        self._packing = False
        self._packs = runtime.lock()  # held by a pack, or by a transaction from its first undo to its end
        self._keeps_packs_off = False
        #: Since the vote: the tid that the transaction will get; None where nothing would tell of it.
        self.coming_tid: bytes | None = None
        self._has_blobs = interfaces.IBlobStorage.providedBy(storage)
        if self._has_blobs:
            alsoProvides(self, interfaces.IBlobStorage)
        self._lock = runtime.lock_file(os.path.join(self._adapter.data_dir, LOCK))
        try:
            self._adapter.connmanager.pragmas.setdefault(*SYNCHRONOUS)
            storage._store_connection_pool.drop_all()
            #: The identity of the database (C22).
            self.database = self._set_up(runtime.randbytes(16).hex())
            self._instances = Instances(runtime, self, 0)
            self._connection, _ = self._adapter.connmanager.open(isolation=None, read_only=True)
            self._seen = self._last()
            # RelStorage does not sync the file that knows them.
            self._adapter.oidallocator.set_min_oid(None, self._ask(self._statements.highest_oid)[0][0])
        except BaseException:
            self._lock.close()
            raise

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self._adapter.data_dir}>'

    def _set_up(self, instance: str) -> str | None:
        connection, cursor = self._adapter.connmanager.open(isolation=None)
        try:
            if not self._storage.isReadOnly():
                cursor.execute('CREATE TABLE IF NOT EXISTS zeo_clone_identity (identity TEXT NOT NULL)')
                cursor.execute(IDENTIFY, (instance,))
            cursor.execute("SELECT name FROM sqlite_master WHERE name = 'zeo_clone_identity'")
            if cursor.fetchone() is None:
                return None
            cursor.execute('SELECT min(identity) FROM zeo_clone_identity')
            identity: str | None = cursor.fetchone()[0]
            return identity
        finally:
            connection.close()

    def close(self) -> None:
        """At the end, when no thread works any more."""
        take_steps('the end of a database', self._instances.close, self._connection.close, self._lock.close)

    # ---- what `Instances` need ----------------------------------------------------------------------

    def new_instance(self) -> Any:
        """Another instance of the storage, for one thread at a time."""
        return self._storage.new_instance()

    def is_away(self, error: BaseException) -> bool:
        """A file is not."""
        return False

    def translate(self, error: BaseException) -> Any:
        """The nearest exception that clients know."""
        return nearest(error, self._error)

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self.translate(error) from error

    # ---- what it is ---------------------------------------------------------------------------------

    def registerDB(self, wrapper: Any) -> None:
        """`wrapper` is told what others write."""
        self._wrapper = wrapper
        self._storage.registerDB(wrapper)

    def getName(self) -> str:
        """Its name."""
        return str(self._storage.getName())

    sortKey = getName

    def isReadOnly(self) -> bool:
        """Takes it no commits?"""
        return bool(self._storage.isReadOnly())

    def getSize(self) -> int:
        """Bytes."""
        return int(self._storage.getSize())

    def __len__(self) -> int:
        return len(self._storage)

    # ---- reading: any thread ------------------------------------------------------------------------

    def _ask(self, statement: str, *arguments: int) -> list[Any]:
        with self._translating(), self._reading:
            rows: list[Any] = self._connection.execute(statement, arguments).fetchall()
        return rows

    def _last(self) -> int:
        last: int = self._ask(self._statements.last)[0][0]
        return last

    def lastTransaction(self) -> bytes:
        """The last tid, whoever wrote it."""
        last: bytes = p64(self._last())
        return last

    def loadBefore(self, oid: bytes, tid: bytes) -> Revision | None:
        """The revision before `tid`; None if there is none.  Raises POSKeyError."""
        rows = self._ask(self._statements.before, number_of(oid), number_of(tid))
        if not rows and self._ask(self._statements.any, number_of(oid)):
            return None
        if not rows or rows[0][0] is None:  # its creation was undone, or it was deleted
            raise POSKeyError(oid)
        state, serial, end = rows[0]
        return bytes(state), p64(serial), None if end is None else p64(end)

    def load(self, oid: bytes, version: str = '') -> tuple[bytes, bytes]:
        """The current record and its serial.  Raises POSKeyError."""
        found = self.loadBefore(oid, maxtid)
        if found is None:
            raise POSKeyError(oid)
        return found[:2]

    def getTid(self, oid: bytes) -> bytes:
        """The serial of the current revision.  Raises POSKeyError."""
        return self.load(oid)[1]

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        """The data of a revision.  Raises POSKeyError."""
        data = self._revision(oid, serial)
        if data is None:
            raise POSKeyError(oid)
        return data

    def _revision(self, oid: bytes, serial: bytes) -> bytes | None:
        rows = self._ask(self._statements.revision.replace('%s', '?'), number_of(oid), number_of(serial))
        return record_of(rows[0][0]) if rows else None

    def record_iternext(self, start: bytes | None = None) -> tuple[bytes, bytes, bytes, bytes | None]:
        """Oid, serial and record of the first object from `start`, and where to go on."""
        rows = self._ask(self._statements.from_oid, number_of(start or z64))
        if not rows:
            raise ValueError('there are no more objects')
        oid, tid, record = rows[0]
        return p64(oid), p64(tid), bytes(record), p64(rows[1][0]) if len(rows) > 1 else None

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> Transactions:
        """The transactions from `start` to `stop`."""
        return Transactions(self._instances, start, stop)

    def history(self, oid: bytes, size: int = 1) -> Any:
        """The newest revisions of an object."""
        return self._instances.call(lambda instance: instance.history(oid, size=size))

    def new_oid(self) -> bytes:
        """One that nobody has."""
        oid: bytes = self._instances.call(lambda instance: instance.new_oid())
        return oid

    def changed_between(self, after: bytes, until: bytes) -> list[bytes] | None:
        """The oids written later than `after`, up to `until`; None if too many, or `after` is unknown."""
        if not self._has(after):
            return None
        oids = {oid for _, oid in self._ask(
            self._statements.changes, u64(after), number_of(until), MOST_CHANGED + 1)}
        return [p64(oid) for oid in oids] if len(oids) <= MOST_CHANGED else None

    def has_transaction(self, before: bytes, tid: bytes) -> bool | None:
        """Is `tid`, which is later than the transaction `before`, a transaction?  None: it may have been."""
        if self._has(tid):
            return True
        return False if self._keeps_all_since(before, tid) else None

    def _has(self, tid: bytes) -> bool:
        return bool(self._ask(self._statements.has, number_of(tid)))

    def _keeps_all_since(self, before: bytes, tid: bytes) -> bool:
        return self._last() < int(u64(tid))

    # ---- blobs: any thread ----------------------------------------------------------------------------

    @property
    def fshelper(self) -> Any:
        """What knows where blobs are, if that is in a directory and not in the database."""
        if self._has_blobs and self._storage._options.shared_blob_dir:
            return self._storage.blobhelper.fshelper
        return None

    def temporaryDirectory(self) -> str:
        """Where uploads go."""
        return str(self._storage.temporaryDirectory())

    def openCommittedBlobFile(self, oid: bytes, serial: bytes) -> Any:
        """The file of a blob, open before a clean-up can remove it (B6).  Raises POSKeyError."""
        return self._of_blobs('openCommittedBlobFile', oid, serial)

    def loadBlob(self, oid: bytes, serial: bytes) -> str:
        """Where the file of a blob is, at this moment.  Raises POSKeyError."""
        return str(self._of_blobs('loadBlob', oid, serial))

    def _of_blobs(self, name: str, oid: bytes, serial: bytes) -> Any:
        if not self._has_blobs:
            raise Unsupported('the storage has no blobs; give it a blob-dir')
        return self._instances.call(lambda instance: getattr(instance, name)(oid, serial))

    # ---- packing: a thread for packs ------------------------------------------------------------------

    def pack(self, time: float, references: Any) -> None:
        """Pack, beside commits; not beside an undo, for RelStorage has no lock for that on SQLite."""
        with self._packs:
            instance = self._instances.borrow()
            self._packing = True
            try:
                with self._translating():
                    instance.pack(time, references)
            finally:
                self._instances.drop(instance)
                with self._looking:
                    self._packing, self._seen = False, min(self._seen, self._last())

    # ---- what others wrote: any thread ----------------------------------------------------------------

    def look(self) -> bool:
        """Has another process written since the last look?  Then it is told."""
        with self._looking:
            last, since = self._last(), self._seen
            if last == since or last < since and self._packing:  # a pack removes transactions
                return False
            self._seen = last
            known = since == 0 or self._has(p64(since))
            rows = self._ask(self._statements.changes, since, last, MOST_CHANGED + 1) if known else []
            more = self._throttle.admits('others')
            if more is not None:
                log.warning('%s: another process has written to the database, which is for one server alone; '
                            'clients are told%s', self._adapter.data_dir, more)
            if not known or len(rows) > MOST_CHANGED:
                self._wrapper.invalidateCache()
                return True
            for tid, changes in groupby(rows, lambda row: row[0]):
                # What was written twice may show in the later one alone: as in `feed`.
                written = changes if tid != rows[0][0] else rows
                self._wrapper.invalidate(p64(tid), [p64(oid) for _, oid in written])
            if not rows or rows[-1][0] != last:
                self._wrapper.invalidate(p64(last), [])
        return True

    # ---- commits: one thread at a time ----------------------------------------------------------------

    def tpc_transaction(self) -> Any:
        """The transaction that it is in."""
        return self._transaction

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = ' ') -> None:
        """Begin; with `tid`, one whose records are restored."""
        self.look()
        if tid is not None and u64(tid) <= self._seen:
            raise StorageTransactionError(f'the tid {tid.hex()} is not later than the last one, '
                                          f'{p64(self._seen).hex()}')
        self._drop_what_was_refused()
        self._given, self._kind = tid, None if tid is None else 'restore'
        self._stored, self._undone, self.coming_tid = [], set(), None
        with self._translating():
            self._storage.tpc_begin(transaction, tid, status)
        self._transaction = transaction
        self._state = state = self._storage._tpc_phase.shared_state
        state.cache = state.local_client = Past(self._statements.revision, state, self._replaced.old)

    def _drop_what_was_refused(self) -> None:
        """What is stored is in a temporary table of the connection since the vote, and committed there before
        anything is compared.  RelStorage clears it in COMMIT and ROLLBACK, which it leaves out where SQLite
        is in no transaction: the next one would commit what was refused.  So there is another connection
        after each that has used one and was not committed.
        """
        if self._state is not None and 'store_connection' in vars(self._state):
            self._storage._store_connection_pool.drop_all()
        self._state = None

    def _does(self, kind: str) -> None:
        """RelStorage lets go of SQLite's lock, and commits what it has, before it votes on stores."""
        if self._kind not in (None, kind):
            raise StorageError(f'RelStorage on SQLite cannot {kind} and {self._kind} in one transaction')
        self._kind = kind

    def store(self, oid: bytes, serial: bytes, data: bytes, version: str, transaction: Any) -> None:
        """Store a record.  Its conflicts are found at the vote."""
        if self._given is not None:
            self._compare(oid, serial)
            self.restore(oid, self._given, data, version, None, transaction)
            return
        self._writes(oid, serial)
        with self._translating():
            self._storage.store(oid, serial, data, version, transaction)

    def storeBlob(self, oid: bytes, serial: bytes, data: bytes, path: str, version: str, transaction: Any
                  ) -> None:
        """Store a blob, whose file is moved."""
        if self._given is not None:
            self._compare(oid, serial)
            self._stored.append(oid)
            with self._translating():
                self._storage.restoreBlob(oid, self._given, data, path, None, transaction)
            return
        self._writes(oid, serial)
        with self._translating():
            self._storage.storeBlob(oid, serial, data, path, version, transaction)

    def _writes(self, oid: bytes, serial: bytes) -> None:
        self._does('store')
        self._stored.append(oid)
        if not self.keeps_history and serial not in (None, z64):  # it will be gone soon
            record = self._revision(oid, serial)
            if record is not None:
                self._replaced.put(oid, record, serial)

    def _compare(self, oid: bytes, serial: bytes) -> None:
        """Nobody else writes now.  Raises ConflictError."""
        with contextlib.suppress(POSKeyError):
            current = self.getTid(oid)
            if current != serial:
                raise ConflictError(oid=oid, serials=(current, serial))

    def restore(self, oid: bytes, serial: bytes, data: bytes, version: str, previous: Any, transaction: Any
                ) -> None:
        """Store a record of another database."""
        self._does('restore')
        self._stored.append(oid)
        with self._translating():
            self._storage.restore(oid, serial, data, version, previous, transaction)

    def checkCurrentSerialInTransaction(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        """At the vote `serial` has to be the current one."""
        with self._translating():
            self._storage.checkCurrentSerialInTransaction(oid, serial, transaction)

    def deleteObject(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        """Delete an object.  Raises POSKeyError, ConflictError."""
        self._does('store' if self.keeps_history else 'delete')
        self.getTid(oid)
        self._compare(oid, serial)
        with self._translating():
            if self.keeps_history:  # its last revision has no record
                self._state.temp_storage.delete_object(u64(oid), u64(serial))
            else:
                self._storage.deleteObject(oid, serial, transaction)
                self._undone.add(oid)

    def tryToResolveConflict(self, *args: Any, **keywords: Any) -> Any:
        """As the vote does."""
        return self._storage.tryToResolveConflict(*args, **keywords)

    def tpc_vote(self, transaction: Any) -> set[bytes]:
        """Find conflicts and write everything.  The oids whose conflicts were resolved."""
        with self._translating():
            oids = set(self._storage.tpc_vote(transaction) or ())
            phase = self._storage._tpc_phase
            if not self._state.prepared_txn:
                phase._lock_and_move(vote_only=True)
        if self.look():
            raise ConflictError('another process has written to the database meanwhile')
        if self._stored or self.keeps_history:
            self.coming_tid = phase.committing_tid_lock.tid
        return oids - self._undone

    def tpc_finish(self, transaction: Any, _: object = None) -> bytes:
        """Commit; the tid."""
        try:
            with self._translating(), self._looking:
                tid: bytes = self._storage.tpc_finish(transaction)
                if self.coming_tid is not None:
                    self._seen = u64(tid)
        finally:
            self._let_packs()
        self._transaction = self._state = None
        self._replaced.changed(tid, self._stored)
        return tid

    def tpc_abort(self, transaction: Any) -> None:
        """Forget it."""
        if transaction is not self._transaction:
            return
        try:
            self._storage.tpc_abort(transaction)
        except Exception:
            self._storage.tpc_abort(transaction, _force=True)
        finally:
            self._transaction = None
            self._let_packs()

    def _let_packs(self) -> None:
        if self._keeps_packs_off:
            self._keeps_packs_off = False
            self._packs.release()


@implementer(interfaces.IStorageUndoable)
class AloneWithHistory(Alone):
    """One with history."""

    keeps_history = True

    def _keeps_all_since(self, before: bytes, tid: bytes) -> bool:
        rows = self._ask(self._statements.packed, number_of(before))
        return bool(rows) and not rows[0][0]

    def supportsUndo(self) -> bool:
        """Can transactions be undone?"""
        return True

    def undo(self, transaction_id: bytes, transaction: Any) -> tuple[None, list[bytes]]:
        """Undo a transaction; the oids that it changed.  Raises UndoError."""
        self._does('undo')
        if not self._keeps_packs_off:
            self._keeps_packs_off = self._packs.acquire(blocking=False)
        if not self._keeps_packs_off:
            raise UndoError('the storage is being packed; try again when that is done')
        with self._translating():
            cursor = self._state.store_connection.cursor
            self._storage._tpc_phase._obtain_commit_lock(cursor)  # what is found is so until the end
            undone = int.from_bytes(base64.decodebytes(transaction_id + b'\n'), 'big')
            cursor.execute(self._statements.packs, (min(undone, MOST),))
            if cursor.fetchone():
                raise UndoError('the transaction is being packed, or the pack that was at it has failed')
            self._storage.undo(transaction_id, transaction)
        oids = set(self._storage._tpc_phase.invalidated_oids) - self._undone
        self._undone |= oids
        return None, list(oids)

    def undoLog(self, first: int = 0, last: int = -20) -> Any:
        """Entries of the undo log."""
        return self._instances.call(lambda instance: instance.undoLog(first, last))

    def undoInfo(self, first: int = 0, last: int = -20, specification: Any = None) -> Any:
        """Entries of the undo log that have the values of `specification`."""
        return self._instances.call(lambda instance: instance.undoInfo(first, last, specification))


def alone(storage: Any, runtime: Runtime) -> Alone:
    """`storage`, a RelStorage on SQLite, for one server."""
    return (AloneWithHistory if storage.keep_history else Alone)(storage, runtime)
