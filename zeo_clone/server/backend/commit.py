"""A transaction in the storage: what is done while the commit lock is held.

In: operations to carry out.  Out: what the storage made of them: the oids that it wrote and changed, the
conflicts, the tid.  A `StorageCommit` exists only while its owner holds the lock, and is the only thing
that touches the storage on behalf of a commit.  Loop thread only.  It knows no client and no queue.
"""
from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import (
    ConflictError,
    POSKeyError,
    ReadConflictError,
    StorageError,
    StorageTransactionError,
    UndoError,
)
from ZODB.utils import z64

from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.server.backend.blobfiles import BlobFiles, Plan
from zeo_clone.server.backend.guard import Guard, has_plain_class
from zeo_clone.server.vocabulary import Meta, Operation
from zeo_clone.wording import of_server, quoted

UNWRITTEN = 'the server cannot write the transaction'


class StorageCommit:
    """One transaction in one storage, from ``tpc_begin`` to ``tpc_finish`` or ``tpc_abort``.

    `tid` chooses the transaction's tid; None leaves it to the storage.  With `collect_conflicts` the
    stores that conflict are collected instead of failing.
    """

    def __init__(self, storage: Any, abilities: Abilities, guard: Guard, files: BlobFiles, meta: Meta,
                 tid: bytes | None, collect_conflicts: bool, keep_stores: bool) -> None:
        self._storage = storage
        self._abilities = abilities
        self._guard = guard
        self._files = files
        self._transaction = TransactionMetaData(meta.user, meta.description, meta.extension)
        self._collect_conflicts = collect_conflicts
        self._keep_stores = keep_stores
        self.tid = tid
        self._status = meta.status
        self.written: dict[bytes, None] = {}  # oids that need an invalidation, in order (C3)
        self.undone: dict[bytes, None] = {}  # oids that undo wrote
        self.resolved: list[bytes] = []  # oids whose conflicts the storage resolved
        self.conflicts: dict[bytes, dict[str, Any]] = {}  # for the client to resolve, by oid
        self.uploads_on_disk = True
        self._blobs: dict[bytes, int | None] = {}  # oid: the inode of its file, if that is on the disk
        self._notes: list[str] = []  # of these files
        self._plan: Plan | None = None  # what has to be synced
        self.stored: list[bytes] = []  # with `keep_stores`: the oid of each store, in order
        self.expected: bytes | None = None  # since the vote: the tid that it will get, if that is known
        self.failing: Operation | None = None  # the operation that is being carried out

    @property
    def changed(self) -> list[bytes]:
        """Oids whose data are not what the client sent."""
        return list(dict.fromkeys((*self.resolved, *self.undone))) if self.resolved or self.undone else []

    def begin(self) -> None:
        """``tpc_begin``."""
        self._guard.begin()
        try:
            if self.tid is None and self._status == ' ':
                self._storage.tpc_begin(self._transaction)
            elif self._status == ' ':
                self._storage.tpc_begin(self._transaction, self.tid)
            else:
                self._storage.tpc_begin(self._transaction, self.tid, self._status)
        except OSError as error:  # it may write what the transaction before has left in buffers
            raise of_server(error, UNWRITTEN) from error

    def carry_out(self, operations: Iterator[Operation], limit: int) -> bool:
        """At most `limit` of `operations`; True when there are no more.  Raises what the storage raises.
        """
        some = list(islice(operations, limit))
        self._guard.start()
        try:
            for operation in some:
                self.failing = operation
                VERBS[operation[0]](self, operation)
        except ConflictError as error:
            self._guard.describe(error)
            raise
        except OSError as error:
            raise of_server(error, UNWRITTEN) from error
        finally:
            self._guard.stop()
        self.failing = None
        return len(some) < limit

    def vote(self) -> None:
        """``tpc_vote``.  Not while there are conflicts."""
        self._guard.start()
        try:
            self.resolved = list(self._storage.tpc_vote(self._transaction) or ())
        except ConflictError as error:
            self._guard.describe(error)
            raise
        except OSError as error:
            raise of_server(error, UNWRITTEN) from error
        finally:
            self._guard.stop()
        for oid in self.resolved:  # a storage may write more than it was asked to, if it undoes for instance
            self.written[oid] = None
        self.expected = self.coming_tid

    def plan_syncs(self) -> Callable[[], None] | None:
        """After `vote`: what has to be called in a worker thread, so that the files of blobs are on the disk
        under their names (B11); None if there are none."""
        if not self._blobs and not self.undone:
            return None
        self._plan = plan = self._files.plan(self._blobs, self.undone, self.coming_tid)
        return partial(self._files.sync, plan.files, plan.directories)

    def synced(self) -> None:
        """The files are on the disk."""
        assert self._plan is not None
        self._files.synced(self._plan)

    @property
    def coming_tid(self) -> bytes | None:
        """After `begin`: the tid that it will get; None if the storage cannot tell before the end."""
        return self._abilities.coming_tid(self._storage) if self.tid is None else self.tid

    def finish(self) -> Any:
        """``tpc_finish``; the tid.  If it raises, the storage may or may not have committed."""
        try:
            if self._abilities.can_finish_later:
                tid = self._storage.finish_later(self._transaction)
            else:
                tid = self._storage.tpc_finish(self._transaction)
        finally:
            self._guard.end()
        if tid is None:
            tid = self._storage.lastTransaction()
        if self._plan is not None and self._plan.missing:  # rare, and too late for others to wait
            moved = {oid: self._blobs[oid] for oid in self._plan.missing if oid in self._blobs}
            plan = self._files.plan(moved, self._plan.missing, tid)
            self._files.sync(plan.files, plan.directories)
        if self._notes and self._abilities.can_finish_later:
            self._files.keep_notes(tid, self._notes)
        elif self._notes:
            self._end_notes(self._files.drop)
        return tid

    def abort(self) -> None:
        """``tpc_abort``.  Raises `StorageTransactionError` if the storage does not let go."""
        try:
            self._storage.tpc_abort(self._transaction)
        finally:
            self._guard.end()
            holds = self._abilities.transaction() is self._transaction
            if not holds:  # even if it says that it has failed
                self._end_notes(self._files.take_back)
        if holds:
            raise StorageTransactionError('the storage did not end the transaction')

    def _end_notes(self, end: Callable[[str], object]) -> None:
        for note in self._notes:
            end(note)
        self._notes = []

    # ---- the verbs --------------------------------------------------------------------------------

    def _store(self, operation: Operation) -> None:
        _, oid, serial, data, _ = operation
        try:
            if not self._abilities.resolves:
                self._check_unclear(oid, serial, data)
            self._storage.store(oid, serial, data, '', self._transaction)
        except ReadConflictError:
            raise
        except ConflictError as error:
            if not self._collect_conflicts:
                raise
            self._collect(error, oid, serial, data)
        else:
            self._wrote(oid)

    def _store_blob(self, operation: Operation) -> None:
        _, oid, serial, data, path = operation
        if not self._abilities.resolves:
            self._check_unclear(oid, serial, data)
        assert oid is not None
        self._notes += self._files.note(path, oid)
        self._files.expect(path, oid)
        self._blobs[oid] = self._files.inode(path) if self.uploads_on_disk else None
        self._storage.storeBlob(oid, serial, data, path, '', self._transaction)
        self._wrote(oid)

    def _check_unclear(self, oid: bytes | None, serial: bytes | None, data: bytes | None) -> None:
        """Find the conflict of an unusual record here: the storage's exception would unpickle it (S9)."""
        if has_plain_class(data):
            return
        try:
            current = self._abilities.serial_of(oid)
        except POSKeyError:
            return
        if current != serial:
            raise ConflictError(oid=oid, serials=(current, serial))

    def _collect(self, error: ConflictError, oid: bytes | None, serial: bytes | None, data: Any) -> None:
        assert oid is not None
        self.conflicts[oid] = {'oid': oid, 'serials': error.serials or (z64, serial), 'data': data}

    def _wrote(self, oid: bytes | None) -> None:
        assert oid is not None
        self.written[oid] = None
        if self._keep_stores:
            self.stored.append(oid)
        if self.conflicts:
            self.conflicts.pop(oid, None)

    def _restore(self, operation: Operation) -> None:
        _, oid, serial, data, previous = operation
        if serial != self.tid:
            raise StorageError('a restored record has the tid of its transaction, which is begun with it')
        self._abilities.method('restore')(oid, serial, data, '', previous, self._transaction)
        self.written[oid] = None  # type: ignore[index]

    def _check(self, operation: Operation) -> None:
        self._storage.checkCurrentSerialInTransaction(operation.oid, operation.serial, self._transaction)

    def _delete(self, operation: Operation) -> None:
        self._abilities.method('deleteObject')(operation.oid, operation.serial, self._transaction)
        self.written[operation.oid] = None  # type: ignore[index]

    def _undo(self, operation: Operation) -> None:
        undo = self._abilities.method('undo')
        self._guard.start(undo=True)
        try:
            with self._files.undoing(self._notes):
                result = undo(operation.extra, self._transaction)
        except (AssertionError, binascii.Error) as error:  # what storages say to an id that is none
            raise UndoError(f'{quoted(operation.extra)} is not the id of a transaction') from error
        self._guard.start()
        oids = result[1] if isinstance(result, tuple) else result
        undone = dict.fromkeys(oids or ())
        self.undone.update(undone)
        self.written.update(undone)


VERBS = {
    'store': StorageCommit._store,
    'blob': StorageCommit._store_blob,
    'restore': StorageCommit._restore,
    'check': StorageCommit._check,
    'delete': StorageCommit._delete,
    'undo': StorageCommit._undo,
}
