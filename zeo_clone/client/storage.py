"""ClientStorage: a ZODB storage whose data live on a server.

Application threads call in; answers come from the cache or, through the ready link, from the server.
What a message does is in `effects`, how a link is found in `manager`, a commit's phases in `commit`.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import zope.interface
from persistent.TimeStamp import TimeStamp
from ZODB import interfaces
from ZODB.POSException import POSKeyError, ReadOnlyError, Unsupported
from ZODB.utils import maxtid, z64

from zeo_clone.addresses import format_address
from zeo_clone.client import lifetimes
from zeo_clone.client.commit import Committing
from zeo_clone.client.effects import Effects
from zeo_clone.client.link import Link
from zeo_clone.client.manager import Manager
from zeo_clone.client.notices import check_oids, check_revision
from zeo_clone.client.options import client_addresses, make_options
from zeo_clone.Exceptions import ClientDisconnected, UnrecognizedResult
from zeo_clone.loop.runtime import REAL

log = logging.getLogger(__name__)

#: Served interfaces that a client's storage has too, by the name under which a server lists them.
OPTIONAL_INTERFACES = {
    ('ZODB.interfaces', interface.__name__): interface
    for interface in (interfaces.IStorageUndoable,)
}


@zope.interface.implementer(interfaces.IStorage, interfaces.IMultiCommitStorage)
class ClientStorage:
    """A storage that is served by a StorageServer.

    `addr` is a port, ``(host, port)``, the path of a unix socket (with a ``/``) or a list of these.
    `storage` names one of the server's storages.  With `wait` the constructor returns connected, or
    raises `ClientDisconnected` after `wait_timeout` seconds (default 30); later calls that need the
    server wait as long for a connection.  See docs/client.md for the other keywords.
    """

    def __init__(self, addr: Any, storage: str = '1', cache_size: Any = None, name: str = '',
                 wait_timeout: float | None = None, **keywords: Any) -> None:
        if isinstance(addr, str) and type(storage) is int:
            raise TypeError(f'ClientStorage({addr!r}, {storage!r}): the second argument is the name of the '
                            f'storage. Give host and port as one: ClientStorage(({addr!r}, {storage!r}))')
        self._options = options = make_options(addr, storage, cache_size, name, wait_timeout, keywords)
        runtime = REAL
        self._info: dict[str, Any] = {}
        self._info_lock = runtime.lock()  # protects _info and what the storage provides
        self._oids: list[bytes] = []
        self._oids_lock = runtime.lock()  # protects _oids
        self._closed = False
        self._committing = Committing(runtime)
        self._cache = options.make_cache()
        self._effects = Effects(self._cache, self, runtime)
        self._life = lifetimes.begin(self, options.io_thread)
        self._manager = Manager(options, self._life.loop, self._effects, self)
        try:
            self._manager.start()
            if options.wait:
                self._manager.link(options.wait_timeout_s)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f'<ClientStorage {self.getName()}>'

    # ---- about the storage ----------------------------------------------------------------------

    def getName(self) -> str:
        """The storage's name, with `` (connected)`` or `` (disconnected)``."""
        name = self._options.name or ', '.join(map(format_address, self._manager.addresses))
        return f'{name} ({"connected" if self.is_connected() else "disconnected"})'

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
        link = self._manager.ready
        return self._options.read_only or link is not None and link.read_only

    def supportsUndo(self) -> bool:
        """Does the served storage?"""
        return bool(self._info.get('supportsUndo', False))

    def is_connected(self) -> bool:
        """Is there a connection that can be used?"""
        return self._manager.ready is not None

    def cache_stats(self) -> dict[str, Any]:
        """Size, use, hits, misses and so on of the client cache; see ``IClientCache.stats``."""
        return self._cache.stats()  # type: ignore[no-any-return]

    def new_addr(self, addr: Any) -> None:
        """Leave the present server and look for one at `addr` from now on."""
        self._manager.new_addresses(client_addresses(addr))

    def lastTransaction(self) -> bytes:
        """The last transaction whose invalidations have all taken effect here (C2)."""
        return self._cache.getLastTid()  # type: ignore[no-any-return]

    def registerDB(self, db: Any) -> None:
        """`db` will be told of invalidations."""
        self._effects.db = db

    def invalidateCache(self) -> None:
        """Have all open connections look at their objects anew."""
        if self._effects.db is not None:
            self._effects.db.invalidateCache()

    def sync(self, force: bool = True) -> None:
        """Process what the server has sent (without an I/O thread), or ask it (``server_sync``)."""
        if not self._options.io_thread:
            self._life.process_pending()
        if self._options.server_sync and force:
            try:
                self._ask('ping')
            except ClientDisconnected:
                pass  # reading from the cache goes on without the server

    def close(self) -> None:
        """Close connection and cache.  May be called twice and from any thread."""
        if self._closed:
            return
        self._closed = True
        self._manager.close()
        self._life.end(self)
        self._cache.close()

    # ---- of the manager ---------------------------------------------------------------------------

    def manager_ready(self, link: Link) -> None:
        """Of the manager: `link` will be used from now on."""
        self.manager_info(link.info)
        names = {tuple(name) for name in link.info.get('interfaces', ())
                 if type(name) in (tuple, list) and all(type(part) is str for part in name)}
        found = [interface for name, interface in OPTIONAL_INTERFACES.items() if name in names]
        zope.interface.directlyProvides(self, found)

    def manager_lost(self, link: Link) -> None:
        """Of the manager: `link` has gone.  Its server may hand out the same oids again (C13)."""
        with self._oids_lock:
            self._oids.clear()

    def manager_info(self, info: dict[str, Any]) -> None:
        """Of the manager: new facts about the served storage."""
        with self._info_lock:
            self._info = {**self._info, **info}

    # ---- reading ----------------------------------------------------------------------------------

    def loadBefore(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """The revision of `oid` that was current just before `tid`: ``(data, tid, next tid or None)``.

        None if there was none yet.  Raises POSKeyError for an unknown oid, `ClientDisconnected`.
        """
        found = self._cache.loadBefore(oid, tid)
        while found is not None:
            applying = self._effects.applying
            if applying is None or tid <= applying:
                return found  # type: ignore[no-any-return]
            self._effects.wait()
            found = self._cache.loadBefore(oid, tid)

        def received(value: Any) -> Any:
            revision = check_revision(value)
            if revision is not None:
                data, start, end = revision
                self._cache.store(oid, start, end, data)
            return revision

        if type(oid) is not bytes or len(oid) != 8 or len(tid) != 8:
            oid, tid = _eight_bytes(oid), _eight_bytes(tid)
        return self._read(lambda channel: channel.load(oid, tid, received))  # type: ignore[no-any-return]

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
        return self._ask('loadSerial', oid, serial)  # type: ignore[no-any-return]

    def getTid(self, oid: bytes) -> bytes:
        """The transaction that wrote the current revision.  Raises POSKeyError."""
        return self._ask('getTid', oid)  # type: ignore[no-any-return]

    def history(self, oid: bytes, size: int = 1) -> list[dict[str, Any]]:
        """The newest `size` revisions, newest first, each described by a dict."""
        return self._ask('history', oid, size)  # type: ignore[no-any-return]

    def ping(self) -> None:
        """Ask the server and wait for the answer: what it committed before has arrived then."""
        self._ask('ping')

    def server_status(self) -> dict[str, Any]:
        """The server's counters for this storage."""
        return self._ask('server_status')  # type: ignore[no-any-return]

    def _ask(self, name: str, *args: Any) -> Any:
        return self._read(lambda channel: channel.call(name, args))

    def _read(self, call: Callable[[Any], Any]) -> Any:
        """Make a call that changes nothing; once more if the connection breaks meanwhile."""
        deadline = REAL.monotonic() + self._options.wait_timeout_s
        while True:
            link = self._manager.link(max(0.0, deadline - REAL.monotonic()))
            try:
                return call(link.channel)
            except ClientDisconnected:
                if self._closed or link.channel is None or link.channel.fate is None:
                    raise  # the server said so itself

    # ---- writing ----------------------------------------------------------------------------------

    def _writable(self) -> None:
        if self.isReadOnly():
            raise ReadOnlyError()

    def _link(self) -> Link:
        return self._manager.link(self._options.wait_timeout_s)

    def new_oid(self) -> bytes:
        """An oid that nobody has or will get (C13)."""
        self._writable()
        with self._oids_lock:
            if self._oids:
                return self._oids.pop()
        link = self._link()
        self._writable()
        assert link.channel is not None
        oids = check_oids(link.channel.call('new_oids', (100,)))
        if not oids:
            raise UnrecognizedResult('the server answered new_oids with an empty list')
        oids.reverse()
        oid = oids.pop()
        with self._oids_lock:
            if link is self._manager.ready:
                self._oids[:0] = oids
        return oid

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = ' ') -> None:
        """Begin a two-phase commit; waits while another one of this storage is under way."""
        self._writable()
        self._committing.begin(transaction, self._link_to_write, tid, status)

    def _link_to_write(self) -> Link:
        link = self._link()
        self._writable()
        return link

    def store(self, oid: bytes, serial: bytes | None, data: bytes, version: str,
              transaction: Any) -> None:
        """Write an object; conflicts are raised by `tpc_vote`."""
        self._writable()
        if version:
            raise Unsupported('versions')
        self._committing.begun(transaction).write('storea', oid, data, serial or z64, data)

    def checkCurrentSerialInTransaction(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        """Have `tpc_vote` fail with ReadConflictError if `serial` is not current."""
        self._committing.begun(transaction).send('checkCurrentSerialInTransaction', oid, serial)

    def undo(self, transaction_id: bytes, transaction: Any) -> None:
        """Undo a transaction; `tpc_vote` returns the oids concerned, or raises UndoError."""
        self._writable()
        self._committing.begun(transaction).send('undoa', transaction_id)

    def tpc_vote(self, transaction: Any) -> list[bytes]:
        """Have the server carry it out; returns the oids whose data the server has changed.

        Raises ConflictError, ReadConflictError, UndoError, `ClientDisconnected`, ...
        """
        committing = self._committing
        committing.phase = voted = committing.begun(transaction).vote(self._effects)
        return voted.changed

    def tpc_finish(self, transaction: Any, func: Callable[[bytes], Any] | None = None) -> bytes:
        """Commit; returns the tid.  `func` is called with it before any later effect.

        Raises `ClientDisconnected` if certainly nothing, `CommitOutcomeUnknown` if perhaps everything
        was committed.
        """
        voted = self._committing.voted(transaction)
        try:
            return voted.finish(self._effects, func)
        finally:
            self._committing.end()

    def tpc_abort(self, transaction: Any, timeout: float | None = None) -> None:
        """Give up `transaction`; nothing if it is not the one being committed."""
        phase = self._committing.phase
        if phase is None or phase.transaction is not transaction:
            return
        try:
            phase.abort()
        finally:
            self._committing.end()

    def tpc_transaction(self) -> Any:
        """The transaction that is being committed, or None."""
        phase = self._committing.phase
        return None if phase is None else phase.transaction

    # ---- undo and pack ------------------------------------------------------------------------------

    def undoLog(self, first: int = 0, last: int = -20, filter: Any = None) -> Any:
        """Transactions that can be undone, newest first; `filter` is not sent: use `undoInfo`."""
        return [] if filter is not None else self._ask('undoLog', first, last)

    def undoInfo(self, first: int = 0, last: int = -20, specification: Any = None) -> Any:
        """Transactions that can be undone and match the dict `specification`, newest first."""
        return self._ask('undoInfo', first, last, specification)

    def pack(self, t: Any = None, referencesf: Any = None, wait: int = 1, days: float = 0) -> None:
        """Remove what is older than `t` (seconds since the epoch; default now) less `days` days.

        With `wait` false the server packs in the background.  `referencesf` is the server's own.
        """
        if t is None:
            t = REAL.time()
        elif isinstance(t, TimeStamp):
            t = t.timeTime()
        link = self._link()
        assert link.channel is not None
        link.channel.call('pack', (t - days * 86400, wait))

    def cleanup(self) -> None:
        """Of old tests: a client has nothing to remove."""


def _eight_bytes(value: Any) -> bytes:
    if isinstance(value, bytes) and len(value) == 8:
        return bytes(value)
    if isinstance(value, bytes):
        raise POSKeyError(value)
    raise TypeError(f'an oid or tid is 8 bytes, not {value!r:.50}')
