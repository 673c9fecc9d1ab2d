"""What a storage can do, found out once, at start: the only place that asks.

In: a storage of any kind.  Out: names of optional methods that it has, what kind of storage it is, and the
little that may change while it is served: of a storage that is a client itself, by its own server; of a
DemoStorage, when it gets its first blob.  Any thread.
"""
from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any

from ZODB.BaseStorage import BaseStorage
from ZODB.blob import BLOB_SUFFIX
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IBlobStorage, IMultiCommitStorage, IMVCCStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import StorageError, Unsupported
from ZODB.utils import load_current, z64
from zope.interface import providedBy

from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.server.backend.database.kinds import is_alone, is_database

#: Methods that not every storage has.
OPTIONAL = ('deleteObject', 'getExtensionMethods', 'getTid', 'is_connected', 'iterator', 'lastInvalidations',
            'loadBlob', 'record_iternext', 'restore', 'supportsUndo', 'tpc_transaction',
            'tryToResolveConflict', 'undo', 'undoLog')


def file_of(storage: Any) -> str | None:
    """The path of a FileStorage's file, also of one that is wrapped; None for another storage."""
    path = getattr(storage, '_file_name', None)
    return path if type(path) is str else None


def is_quick(storage: Any) -> bool:
    """Does it answer as quickly as memory, so that a server may ask it between two others?  That is known of
    files of FileStorages, which the page cache holds, and of ZODB's storages in memory, also where one is
    around another."""
    if isinstance(storage, DemoStorage):
        return is_quick(storage.base) and is_quick(storage.changes)
    return isinstance(storage, MappingStorage) or file_of(storage) is not None


def cut_short(runtime: Runtime, path: str) -> str | None:
    """What to do with the FileStorage at `path`, which is missing or empty, if it is the end of a pack that
    took it away: ZODB renames the file to .old, then the packed one to the file's name, and a loss of power
    may take the second of these.  It would begin a new file.  None: it has never been more."""
    if not (runtime.exists(f'{path}.old') and runtime.exists(f'{path}.pack')):
        return None
    return (f'a pack was cut short while it put a new file into the place of {path}. Rename {path}.old, '
            f'which is whole, to {path}, and remove {path}.index')


class NotWhole(StorageError):  # type: ignore[misc]
    """The file of a FileStorage is missing, though it has been there."""


def check_whole(runtime: Runtime, path: str, blob_dir: str | None = None) -> None:
    """Before a FileStorage is opened at `path`, with blobs in `blob_dir`: raises `NotWhole` after such a
    pack, or while the disk of the file is not mounted.

    ZODB would begin a new file, and remove all blobs at once, as left of an older one (D4).
    """
    if runtime.exists(path):
        return
    advice = cut_short(runtime, path)
    try:
        if advice is None and blob_dir and _has_blobs(runtime, blob_dir):
            advice = (f'there is no file {path}, but there are blobs in {blob_dir}, which a new database '
                      f'would remove. Bring the file back, is its disk mounted? For a new database move the '
                      f'blob directory away')
    except OSError as error:
        advice = (f'there is no file {path}, and a new database would remove {blob_dir}, of which nobody can '
                  f'say whether there are blobs in it ({error}): name another blob directory')
    if advice is not None:
        raise NotWhole(advice)


def _has_blobs(runtime: Runtime, directory: str) -> bool:
    for name in runtime.listdir(directory) if runtime.is_directory(directory) else ():
        if name.endswith(BLOB_SUFFIX) or _has_blobs(runtime, os.path.join(directory, name)):
            return True
    return False


def check_safe(storage: Any, runtime: Runtime = REAL) -> None:
    """Raises ValueError if clients of a server of `storage` would be told wrong things (X4), or are to begin
    an empty database in place of one that is there (D4).

    An IMVCCStorage shows a snapshot of a database to which others may write.  This server has but one
    instance of it, which only its own commits bring up to date, and which judges conflicts by that snapshot.
    Two kinds it knows how to ask (`database`).
    """
    if IMVCCStorage.providedBy(storage) and not (is_database(storage) or is_alone(storage)):
        raise ValueError(
            f'a {type(storage).__module__}.{type(storage).__qualname__} shows each connection a snapshot of '
            f'its own (IMVCCStorage): this server would never hear of what others write to the database, and '
            f'its clients would read stale data for ever; have the clients open that storage themselves')
    path = file_of(storage)
    if path is not None and (storage.lastTransaction() or z64) == z64:
        advice = cut_short(runtime, path)
        if advice is not None:
            raise ValueError(advice)


def _coming_tid(storage: Any) -> bytes | None:
    tid: bytes | None = getattr(storage, 'coming_tid', None)  # of an `Alone`
    return tid


class Abilities:
    """The abilities of `storage`."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._methods = frozenset(name for name in OPTIONAL if getattr(storage, name, None) is not None)
        self.file = file_of(storage)
        #: Need the last transaction not be the one that was committed last?
        self.has_many_writers = bool(IMultiCommitStorage.providedBy(storage))
        #: Does it tell which database it is?
        self.tells_database = hasattr(storage, 'database')
        #: Are these the methods of FileStorage itself?  A storage around one need not have any of its own.
        self.has_own_undo_log = self._has_file_storages('undoLog') and self._has_file_storages('undoInfo')
        self.has_own_history = self._has_file_storages('history')
        #: Names of methods that clients may call.
        self.extension_methods: tuple[str, ...] = ()
        if self.has('getExtensionMethods'):
            self.extension_methods = tuple(storage.getExtensionMethods())
        oid = getattr(storage, '_oid', None)  # of all of the kind of BaseStorage
        #: The highest oid that it had at start, where it says.
        self.highest_oid = oid if type(oid) is bytes and len(oid) == 8 else None
        #: Can a commit end before it is on the disk?
        self.can_finish_later = hasattr(storage, 'finish_later')
        self._locks = hasattr(getattr(storage, '_commit_lock', None), 'locked')  # as all of ZODB's own
        #: Is it known after ``tpc_begin`` which tid a transaction will get?
        self.tells_tids = isinstance(storage, BaseStorage)
        #: Of a storage in a transaction: the tid that it will get; None if that is not known before the end.
        self.coming_tid: Callable[[Any], bytes | None] = (
            operator.attrgetter('_tid') if self.tells_tids else _coming_tid)
        #: The serial of an oid's current revision.  Raises POSKeyError.
        self.serial_of: Callable[[Any], bytes] = (
            storage.getTid if self.has('getTid') else lambda oid: load_current(storage, oid)[1])
        #: Does it resolve conflicts?
        self.resolves = self.has('tryToResolveConflict')
        self._has_changes = hasattr(storage, 'changes')  # a DemoStorage

    def __repr__(self) -> str:
        return f'<Abilities of {type(self._storage).__name__}: {", ".join(sorted(self._methods))}>'

    def has(self, name: str) -> bool:
        """Has it one of the methods of `OPTIONAL`?"""
        return name in self._methods

    def method(self, name: str) -> Any:
        """That method.  Raises Unsupported."""
        if name not in self._methods:
            raise Unsupported(f'the storage has no {name}')
        return getattr(self._storage, name)

    def _has_file_storages(self, name: str) -> bool:
        return getattr(type(self._storage), name, None) is getattr(FileStorage, name)

    # ---- what may change --------------------------------------------------------------------------

    def supports_undo(self) -> bool:
        """Can transactions be undone?"""
        return self.has('supportsUndo') and bool(self._storage.supportsUndo())

    def interfaces(self) -> tuple[tuple[str, str], ...]:
        """Module and name of each interface."""
        return tuple((interface.__module__, interface.__name__)
                     for interface in providedBy(self._storage).__iro__)

    @property
    def has_blobs(self) -> bool:
        """Does it take blobs?"""
        return bool(IBlobStorage.providedBy(self._storage))

    @property
    def blob_helper(self) -> Any:
        """What knows where blobs are; None if that is not in a directory of its own."""
        if self.has_blobs:
            for storage in (self._storage, self._storage.changes if self._has_changes else None):
                helper = getattr(storage, 'fshelper', None)
                if helper is not None:
                    return helper
        return None

    def would_wait(self) -> bool:
        """Would ``tpc_begin`` wait, perhaps for ever?"""
        try:
            if self._locks:
                return bool(self._storage._commit_lock.locked())
            return self.transaction() is not None
        except Exception:
            return True

    def transaction(self) -> Any:
        """The transaction that it is in, where it says."""
        return self._storage.tpc_transaction() if self.has('tpc_transaction') else None

    def is_packing(self) -> bool:
        """Is it a pack, perhaps, that holds its lock?  At times a FileStorage's does."""
        return bool(getattr(self._storage, '_pack_is_in_progress', False))
