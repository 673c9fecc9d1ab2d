"""Reading: what a ClientStorage does without changing anything.

Application threads call in; answers come from the cache or, through the link in use, from the server.
What a message does is in `effects`, how a link is found in `manager`, how it is asked in `loading`.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import zope.interface
from ZODB import interfaces
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.POSException import POSKeyError, Unsupported
from ZODB.utils import maxtid

from zeo_clone.addresses import format_address
from zeo_clone.client import chronicle
from zeo_clone.client.blobs import Blobs, BlobsShared
from zeo_clone.client.caching import Cache
from zeo_clone.client.effects import Effects
from zeo_clone.client.engine import Engine, make_cache
from zeo_clone.client.iteration import Transaction, TransactionIterator
from zeo_clone.client.link import Link
from zeo_clone.client.loading import Loader
from zeo_clone.client.manager import Manager
from zeo_clone.client.options import Options, client_addresses
from zeo_clone.client.world import Life, World
from zeo_clone.Exceptions import ClientDisconnected

#: What a client's storage provides if the served one does, by the names under which a server lists it.
OPTIONAL_INTERFACES = {
    ('ZODB.interfaces', interface.__name__): interface
    for interface in (
        interfaces.IStorageUndoable, interfaces.IStorageRestoreable, interfaces.IStorageIteration,
        interfaces.IStorageCurrentRecordIteration, interfaces.IExternalGC)
}


class StorageReader(ConflictResolvingStorage):  # type: ignore[misc]
    """A served storage, seen by a reader.  It searches for a server as soon as it is made."""

    def __init__(self, options: Options, world: World) -> None:
        self._options = options
        self._world = world
        self._runtime = world.runtime
        self._info: dict[str, Any] = {}
        self._closed = False
        world.notice_fork()  # others may not have been used here yet
        self._engine = Engine(options, world, self, make_cache)
        try:
            if self._blobs is not None:
                zope.interface.alsoProvides(self, interfaces.IBlobStorage)
            world.remember(self)
            self._manager.start()
        except BaseException:
            self.close()
            raise

    # ---- of the world: what belongs to this process -------------------------------------------------

    @property
    def at_home(self) -> bool:
        """Is the engine this process's, and not its parent's?"""
        return bool(self._engine.home[0])

    def begin_anew(self) -> None:
        """This process was forked (N10)."""
        self._engine = self._engine.heir()

    def _own(self) -> Engine:
        """The engine; all parts are taken from it, for a program in C may have forked this process."""
        if not self._engine.home[0]:
            self._world.notice_fork()
        return self._engine

    @property
    def effects(self) -> Effects:
        """What happens when transactions become known."""
        return self._own().effects

    @property
    def _cache(self) -> Cache:
        return self._own().cache

    @property
    def _life(self) -> Life:
        return self._own().life

    @property
    def _manager(self) -> Manager:
        return self._own().manager

    @property
    def _loader(self) -> Loader:
        return self._own().loader

    @property
    def _blobs(self) -> Blobs | BlobsShared | None:
        return self._own().blobs

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.getName()}>'

    # ---- about the storage --------------------------------------------------------------------------

    @property
    def __name__(self) -> str:
        """The storage's name, by default where its server is.  An attribute that programs know of ZEO."""
        return self._options.name or ', '.join(map(format_address, self._manager.addresses))

    def getName(self) -> str:
        """The storage's name, with `` (connected)`` or `` (disconnected)``."""
        return f'{self.__name__} ({"connected" if self.is_connected() else "disconnected"})'

    def sortKey(self) -> str:
        """``storage:server address``: puts the storages of a distributed transaction in order."""
        link = self._manager.ready
        server = str(link.target) if link is not None else format_address(self._manager.addresses[0])
        return f'{self._options.storage}:{server}'

    def getSize(self) -> int:
        """The served storage's size in bytes, as last heard."""
        return self._info.get('size', 0)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        """The number of objects in the served storage, as last heard."""
        return self._info.get('length', 0)  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        return True

    def isReadOnly(self) -> bool:
        """Are writes refused, by own wish or because only a read-only server was found?"""
        return self._options.read_only or self._own().places.is_read_only()

    def supportsUndo(self) -> bool:
        """Does the served storage?"""
        return bool(self._info.get('supportsUndo', False))

    def is_connected(self) -> bool:
        """Is there a connection that can be used?"""
        return self._manager.ready is not None

    def away_s(self) -> float | None:
        """For how many seconds there has been no connection; None while there is one."""
        return self._manager.places.away_s()

    def cache_stats(self) -> dict[str, Any]:
        """Size, use, hits, misses and so on of the client cache; see ``IClientCache.stats``."""
        return self._cache.stats()

    def new_addr(self, addr: Any) -> None:
        """Leave the present server and look for one at `addr` from now on."""
        self._manager.new_addresses(client_addresses(addr))

    def lastTransaction(self) -> bytes:
        """The last transaction whose invalidations have all taken effect here (C2)."""
        return self.effects.last_transaction()

    @property
    def database(self) -> str | None:
        """The identity of the served database, as last heard; None if there is none."""
        return self._info.get('database')

    def registerDB(self, db: Any) -> None:
        """`db` will be told of invalidations; it also knows how records are transformed."""
        super().registerDB(db)
        self.effects.tell(db)

    def invalidateCache(self) -> None:
        """Have all open connections look at their objects anew."""
        if self.effects.db is not None:
            self.effects.db.invalidateCache()

    def sync(self, force: bool = True) -> None:
        """Process what the server has sent (without an I/O thread), or ask it (``server_sync``)."""
        if not self._options.io_thread:
            self._life.process_pending()
        if self._manager.asleep:
            # The first transaction after a fork is to see what has happened since.
            with contextlib.suppress(ClientDisconnected):
                self._loader.link()
        link = self._manager.ready
        if link is not None and link.forgotten:
            link.forget_iterators()
        if self._options.server_sync and force:
            try:
                self.ping()
            except ClientDisconnected:
                pass  # reading from the cache goes on without the server

    def close(self) -> None:
        """Close connection and cache.  May be called twice and from any thread."""
        if self._closed:
            return
        self._closed = True
        self._own().close(self, self.__name__)

    # ---- of the manager -----------------------------------------------------------------------------

    def manager_starts(self) -> None:
        """Called by the manager: the loop has to run from now on."""
        self._life.start()

    def manager_ready(self, link: Link) -> None:
        """Called by the manager: `link` will be used from now on."""
        self._learn(link.info)
        names = {tuple(name) for name in link.info.get('interfaces', ())
                 if type(name) in (tuple, list) and all(type(part) is str for part in name)}
        found = [interface for name, interface in OPTIONAL_INTERFACES.items() if name in names]
        if self._blobs is not None:
            found.append(interfaces.IBlobStorage)
        zope.interface.directlyProvides(self, found)

    def manager_usable(self) -> None:
        """Called by the manager: calls can be made."""
        self._engine.later.go_on()

    def manager_lost(self, link: Link) -> None:
        """Called by the manager: `link` has gone."""

    def link_info(self, link: Link, info: dict[str, Any]) -> None:
        """Called by a link, in the reader's role: new facts about the served storage."""
        if link is self._engine.places.ready:
            self._learn(info)

    def _learn(self, info: dict[str, Any]) -> None:
        with self._engine.info_lock:
            self._info.update(info)

    # ---- reading ------------------------------------------------------------------------------------

    def loadBefore(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """The revision of `oid` that was current just before `tid`: ``(data, tid, next tid or None)``.

        None if there was none yet.  Raises POSKeyError for an unknown oid, `ClientDisconnected`.
        """
        home, cache, effects = self._engine.near
        if not home[0]:
            home, cache, effects = self._own().near
        found = cache.loadBefore(oid, tid)
        while found is not None:
            applying = effects.applying
            if applying is None or tid <= applying:
                return found
            effects.wait()
            found = cache.loadBefore(oid, tid)

        return self._loader.load(oid, tid)  # type: ignore[no-any-return]

    # Of `IAnswersLater`, for those who must not wait.

    @property
    def answers_later(self) -> bool:
        """Is there a thread in which answers are told, whoever waits or not?"""
        return self._options.io_thread

    def load_at_once(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """`loadBefore` if the cache has it; None if the server would have to be asked."""
        home, cache, effects = self._engine.near
        if not home[0]:
            home, cache, effects = self._own().near
        found = cache.loadBefore(oid, tid)
        if found is not None:
            applying = effects.applying
            if applying is not None and tid > applying:
                return None  # half of a transaction is there
        return found

    def load_later(self, oid: bytes, tid: bytes, done: Callable[[Any, BaseException | None], object]) -> None:
        """`loadBefore` by the server: ``done(revision, error)`` is called in any thread."""
        engine = self._own()
        engine.later.begin(lambda channel, call: channel.send_loads([channel.start_load(oid, tid, call)]),
                           engine.loader.arrived(oid), done)

    def ping_later(self, done: Callable[[Any, BaseException | None], object]) -> None:
        """`ping`: ``done(None, error)`` is called in any thread."""
        self._own().later.begin(lambda channel, call: channel.begin('ping', (), call), None, done)

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        """Ask for the revisions of `oids` before `tid`; they arrive in the cache while you go on."""
        self._loader.prefetch(oids, tid)

    def load(self, oid: bytes, version: str = '') -> tuple[bytes, bytes]:
        """The current revision ``(data, tid)``; an old name that ZODB itself does not use any more."""
        if version:
            raise Unsupported('versions')
        found = self.loadBefore(oid, maxtid)
        if found is None:
            raise POSKeyError(oid)
        return found[:2]

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        """The data that transaction `serial` wrote.  Raises POSKeyError."""
        return self._loader.ask('loadSerial', oid, serial)  # type: ignore[no-any-return]

    def getTid(self, oid: bytes) -> bytes:
        """The transaction that wrote the current revision.  Raises POSKeyError."""
        return self._loader.ask('getTid', oid)  # type: ignore[no-any-return]

    def history(self, oid: bytes, size: int = 1) -> list[dict[str, Any]]:
        """The newest `size` revisions, newest first, each described by a dict."""
        if size <= chronicle.SHORT:
            return self._loader.ask('history', oid, size)  # type: ignore[no-any-return]
        return self._loader.read(partial(chronicle.history, oid=oid, size=size))  # type: ignore[no-any-return]

    def ping(self) -> None:
        """Ask the server and wait for the answer: what it committed before has arrived then."""
        self._loader.ask('ping')

    def server_status(self, timeout: float | None = None) -> dict[str, Any]:
        """The server's counters for this storage.  Waits `timeout` seconds for a connection, if need be."""
        return self._loader.ask('server_status', wait_timeout_s=timeout)  # type: ignore[no-any-return]

    #: What is spoken with every server; programs know this of ZEO, like the three attributes below.
    protocol_version = b'Z5'

    # ---- blobs --------------------------------------------------------------------------------------

    @property
    def blob_dir(self) -> str | None:
        """The blob directory that was given."""
        return self._options.blob_dir

    @property
    def shared_blob_dir(self) -> bool:
        """Whether that is the server's own."""
        return self._options.shared_blob_dir

    @property
    def fshelper(self) -> Any:
        """ZODB's ``FilesystemHelper`` of the blob directory, or None."""
        return None if self._blobs is None else self._blobs.directory.fshelper

    def _blob_files(self) -> Blobs | BlobsShared:
        blobs = self._blobs
        if blobs is None:
            raise Unsupported('this ClientStorage has no blob_dir: give it one to use blobs')
        return blobs

    def loadBlob(self, oid: bytes, serial: bytes) -> str:
        """The path of a blob's file, downloaded if need be.  Raises POSKeyError."""
        return self._blob_files().load(self._loader.link, oid, serial)

    def openCommittedBlobFile(self, oid: bytes, serial: bytes, blob: Any = None) -> Any:
        """A blob's file, open for reading; with `blob` as a BlobFile."""
        return self._blob_files().open(self._loader.link, oid, serial, blob)

    def temporaryDirectory(self) -> str:
        """Where uncommitted blobs are written."""
        return self._blob_files().directory.temporary_directory

    # ---- iteration ----------------------------------------------------------------------------------

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> TransactionIterator:
        """Iterate over the transactions from `start` to `stop`, both included."""
        return TransactionIterator(self._loader.link(), start, stop)

    def read_transactions(self, start: bytes, stop: bytes,
                          read: Callable[[Iterable[Transaction]], Any]) -> Any:
        """What ``read(transactions)`` returns, of those from `start` to `stop`.  If the connection breaks
        meanwhile, it is called once more with those of the next one."""
        return self._loader.read(lambda _, link: read(TransactionIterator(link, start, stop)))

    def record_iternext(self, next: Any = None) -> Any:
        """One current record after another: ``(oid, tid, data, next)``; start with None."""
        return self._loader.ask('record_iternext', next)

    # ---- history and undo ---------------------------------------------------------------------------

    def undoLog(self, first: int = 0, last: int = -20, filter: Any = None) -> Any:
        """Transactions that can be undone, newest first: from the first to before the last of those for which
        ``filter(description)`` is true; a negative `last` is how many.

        A filter is called here, with everything that the server tells; `undoInfo` has the server choose.
        """
        if filter is None and chronicle.is_short(first, last):
            return self._loader.ask('undoLog', first, last)
        return self._loader.read(partial(chronicle.undo_log, first=first, last=last, wanted=filter))

    def undoInfo(self, first: int = 0, last: int = -20, specification: Any = None) -> Any:
        """Transactions that can be undone and match the dict `specification`, newest first."""
        if chronicle.is_short(first, last):
            return self._loader.ask('undoInfo', first, last, specification)
        return self._loader.read(
            partial(chronicle.undo_log, first=first, last=last, specification=specification))
