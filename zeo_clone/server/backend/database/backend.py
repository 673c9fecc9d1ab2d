"""All that is asked of a database with other servers in front of it: what `backend.Backend` is to others.

In: questions of clients and commits.  Out: answers, most of them `Deferred`; what was committed, by
whomever, in the order of the database.  It has never heard of a client.  Loop thread only, apart from what
is handed to worker threads.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple

from ZODB.POSException import POSKeyError, StorageTransactionError, Unsupported
from ZODB.utils import maxtid, p64, u64, z64

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend import numbers
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.server.backend.blobfiles import BlobFiles
from zeo_clone.server.backend.chronicle import Chronicle
from zeo_clone.server.backend.database.committers import Committers, DatabaseCommit, Parts
from zeo_clone.server.backend.database.feed import Feed, grouped
from zeo_clone.server.backend.database.instances import Instances, Transactions
from zeo_clone.server.backend.database.outcomes import Fences
from zeo_clone.server.backend.database.reader import Reader
from zeo_clone.server.backend.database.records import Records
from zeo_clone.server.backend.database.relstorage import PACK_OR_UNDO, Database, number_of
from zeo_clone.server.backend.database.upkeep import Upkeep
from zeo_clone.server.backend.flights import Flights, load_batch
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.hot import HotObjects
from zeo_clone.server.backend.packing import Packing
from zeo_clone.server.backend.sizes import Sizes
from zeo_clone.server.backend.workers import LONG_THREADS, Workers
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.stats import Stats
from zeo_clone.server.vocabulary import Meta
from zeo_clone.steps import take_steps

log = logging.getLogger(__name__)

#: So many changed oids are told to a client that was away; with more its cache is dropped.
MOST_CHANGED = 1_000_000
#: RelStorage gives out oids sixteen at a time.
OID_RANGE = 16
#: A client has the commit lock for so long and its timeout, in seconds, before the database lets go of it.
GRACE_S = 30.0
#: Threads that ask for outcomes.
FENCE_THREADS = 2

Written = tuple[bytes, list[bytes]]


class Tuning(NamedTuple):
    """The keys of ``<zeo>`` that concern databases."""

    poll_interval_s: float = 1.0
    read_connections: int = 1
    commit_connections: int = 4
    server_cache_size: int = 64 << 20
    patience_s: float = 10.0


class DatabaseAbilities(Abilities):
    """Blobs that are kept in the database are in no directory of the storage's own."""

    def __init__(self, storage: Any) -> None:
        super().__init__(storage)
        self.has_own_undo_log = self.has_own_history = False
        self.extension_methods = ()

    @property
    def blob_helper(self) -> None:
        """A directory that others share is refused at start."""

    def interfaces(self) -> tuple[tuple[str, str], ...]:
        """Without those that say how RelStorage itself is to be used."""
        return tuple(pair for pair in super().interfaces()
                     if pair[0].startswith(('ZODB.', 'zope.')) and 'MVCC' not in pair[1])


class DatabaseFailures:
    """What the status says of the database, as `failure.Failures` does of other storages."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @property
    def latest(self) -> str | None:
        """Why the database cannot be used just now."""
        return None if self._feed.away_since is None else self._feed.trouble

    def sync_failed(self, error: Exception) -> None:
        """Nothing is synced here."""


class DatabaseBackend:
    """The backend of `storage`, a RelStorage on PostgreSQL that messages call `name`.  Raises ValueError if
    it cannot be served."""

    def __init__(self, loop: Loop, name: str, storage: Any, guard: Guard, stats: Stats,
                 tuning: Tuning, timeout_s: float | None) -> None:
        runtime = loop.runtime
        self._loop = loop
        self._name = name
        self._storage = storage
        self._runtime = runtime
        self._guard = guard
        self._tuning = tuning
        self._database = database = Database(storage, runtime)
        self.abilities = abilities = DatabaseAbilities(storage)
        self._instances = Instances(runtime, database, tuning.patience_s)
        self._records = Records(tuning.server_cache_size)
        self._flights = Flights()
        self._feed = Feed(loop, name, database, self._last_at_start(), tuning.poll_interval_s,
                          tuning.patience_s, self._told, self._started_anew)
        self.reader = Reader(loop, name, database, self._records, self._flights, tuning.read_connections,
                             tuning.patience_s)
        self.files = BlobFiles(runtime, storage, abilities)
        self.sizes = Sizes(loop, storage, None)
        self.packing = Packing(name, self, abilities, guard, self.files, self.sizes, stats, runtime)
        self.failures = DatabaseFailures(self._feed)
        self.hot = HotObjects(self._read_in_worker, runtime.monotonic)
        self.chronicle = Chronicle(self, abilities, runtime)
        self._fences = Fences(runtime, database, tuning.patience_s)
        self._commit_workers = Workers(loop, f'zeo-server-commit-{name}', tuning.commit_connections)
        self._fence_workers = Workers(loop, f'zeo-server-outcome-{name}', FENCE_THREADS)
        #: For what may take long: it may be away.
        self.workers = Workers(loop, f'zeo-server-long-{name}', LONG_THREADS)
        self._measurers: Workers | None = None
        self._looking_up = False
        hold_s = timeout_s + GRACE_S if timeout_s else None
        self._committers = Committers(
            database, guard, [runtime.randbytes(16) for _ in range(tuning.commit_connections)])
        self._parts = Parts(database, abilities, self._committers, self.files, self._feed, self._records,
                            self._fences, self._commit_workers, hold_s)
        self._oids: list[bytes] = []  # that nobody has got yet
        self._number = 0  # of the last transaction of a client that has no token
        self._upkeep = Upkeep(loop, name, database)
        self._tell: Callable[[bytes, list[bytes], Any], object] | None = None
        self._lost_track: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f'<DatabaseBackend {self._database!r}>'

    # ---- at start and at the end --------------------------------------------------------------------

    def _last_at_start(self) -> bytes:
        with self._database.connection() as cursor:
            cursor.execute(self._database.statements.last)
            last: bytes = p64(cursor.fetchone()[0])
        return last

    def recent(self, size: int) -> list[Written]:
        """What the last `size` transactions wrote, up to the one at which the feed starts."""
        with self._database.connection() as cursor:
            cursor.execute(self._database.statements.recent, (max(1, size),))
            groups = grouped(cursor.fetchall())
        return [(p64(tid), oids) for tid, oids in sorted(groups.items()) if p64(tid) <= self._feed.last]

    def last_of(self, recent: list[Written]) -> bytes:
        """The last transaction."""
        return self._feed.last

    def complaints(self, last_tid: bytes) -> Iterator[str]:
        """What is wrong with the numbers that are in the storage already."""
        return numbers.complaints(last_tid, None, self._runtime.time())

    def listen(self, tell: Callable[[bytes, list[bytes], Any], object],
               lost_track: Callable[[], object]) -> None:
        """From now on `tell` is told of each transaction, with the `DatabaseCommit` if it is one of ours."""
        self._tell, self._lost_track = tell, lost_track
        self._feed.open()
        self.reader.open()

    def close(self) -> None:
        """At the end, when no thread works any more."""
        take_steps(f'the end of storage {self._name!r}', self._feed.close, self.reader.close,
                   self._commit_workers.close, self._fence_workers.close, self.workers.close,
                   self._committers.drop, self._instances.close)

    # ---- what happens -------------------------------------------------------------------------------

    def _told(self, tid: bytes, oids: list[bytes], own: DatabaseCommit | None) -> None:
        if own is not None:
            oids = list(dict.fromkeys((*own.written, *oids)))
        self._records.changed(tid, oids)
        self._flights.changed(tid, oids)
        assert self._tell is not None
        self._tell(tid, oids, own)

    def _started_anew(self, identity: str | None) -> None:
        self._database.identity = identity or self._database.identity
        self.reader.read_all_again()
        assert self._lost_track is not None
        self._lost_track()

    def when_fresh(self) -> Deferred:
        """Settled when all has been told that is committed at this moment."""
        return self._feed.when_fresh()

    # ---- what it is -------------------------------------------------------------------------------

    @property
    def database(self) -> str:
        """The identity of the database."""
        return self._database.identity

    @property
    def is_read_only(self) -> bool:
        """Takes it no commits?"""
        return bool(self._storage.isReadOnly())

    #: The feed knows where the database is, even while it is away.
    is_connected = True

    def last_transaction(self) -> bytes:
        """The last transaction that was told.  Any thread."""
        return self._feed.last

    def info(self) -> dict[str, Any]:
        """Length and size, as they were measured last."""
        length, size = self._upkeep.measured
        return {'length': length, 'size': size}

    def describe(self) -> dict[str, Any]:
        """What a client is told of it besides."""
        return {'name': self._storage.getName(), 'supportsUndo': self._database.keeps_history,
                'supports_record_iternext': True, 'interfaces': self.abilities.interfaces()}

    def status(self) -> dict[str, Any]:
        """What the status says of the database.  Any thread."""
        now, feed, records = self._runtime.monotonic(), self._feed, self._records
        away = feed.away_since
        return {'away': None if away is None else round(now - away, 3), 'heard': round(now - feed.heard, 3),
                'waiting': self.reader.waiting, 'cache_bytes': records.used, 'cache_objects': len(records),
                'cache_hits': records.hits, 'cache_misses': records.misses,
                'history': self._database.keeps_history}

    # ---- reading ----------------------------------------------------------------------------------

    def load_batch(self, oids: list[bytes], tid: bytes) -> Deferred:
        """The revisions of all `oids` before `tid`, None where there is none, as of one moment."""
        return load_batch(self.reader.loadBefore, self._flights, oids, tid)

    def load_serial(self, oid: bytes, serial: bytes) -> Deferred:
        """The data of a revision."""
        def data_of(rows: Any) -> bytes:
            if not rows or rows[0][0] is None:
                raise POSKeyError(oid)
            return bytes(rows[0][0])
        asked = number_of(oid), number_of(serial)
        return self.reader.ask(self._database.statements.revision, asked, data_of)

    def get_tid(self, oid: bytes) -> bytes | Deferred:
        """The serial of an object."""
        revision = self.reader.loadBefore(oid, maxtid)
        if not isinstance(revision, Deferred):
            return revision[1]
        tid = Deferred()
        revision.when_settled(lambda found, error: tid.settle(None if error else found[1], error))
        return tid

    def method(self, name: str) -> Any:
        """A method that not every storage has.  Raises Unsupported."""
        if name in ('undo', 'undoLog', 'undoInfo') and not self._database.keeps_history:
            raise Unsupported('the database keeps no history: nothing can be undone')
        if name == 'loadBlob' and not self.abilities.has_blobs:
            raise Unsupported('the storage has no blobs; give it a blob-dir')
        return {'record_iternext': self._record_iternext, 'iterator': self.iterator, 'undoLog': self.undoLog,
                'loadBlob': self.open_blob}[name]

    def open_blob(self, oid: bytes, serial: bytes) -> IO[bytes]:
        """Worker thread: the file of a blob, before RelStorage's clean-up of its cache can remove it (B6).
        Raises POSKeyError."""
        file: IO[bytes] = self._instances.call(lambda instance: instance.openCommittedBlobFile(oid, serial))
        return file

    def extension(self, name: str) -> Any:
        """There are none."""
        raise Unsupported(f'the storage has no {name}')

    def for_client(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """`function`, which reads for a client, as a worker thread has to call it."""
        return partial(self._guard.read, function)

    def _record_iternext(self, start: bytes | None = None) -> Deferred:
        def found(rows: Any) -> tuple[bytes, bytes, bytes, bytes | None]:
            if not rows:
                raise ValueError('there are no more objects')
            oid, tid, record = rows[0]
            return p64(oid), p64(tid), bytes(record), p64(rows[1][0]) if len(rows) > 1 else None
        return self.reader.ask(self._database.statements.from_oid, (number_of(start or z64),), found)

    # ---- reading: worker threads ------------------------------------------------------------------

    def _read_in_worker(self, oid: bytes, tid: bytes) -> Any:
        return self._instances.call(lambda instance: instance.loadBefore(oid, tid))

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> Transactions:
        """The transactions from `start` to `stop`."""
        return Transactions(self._instances, start, stop)

    def history(self, oid: bytes, size: int = 1) -> Any:
        """The newest revisions of an object."""
        return self._instances.call(lambda instance: instance.history(oid, size=size))

    def undoLog(self, first: int, last: int) -> Any:
        """Entries of the undo log."""
        return self._instances.call(lambda instance: instance.undoLog(first, last))

    def undoInfo(self, first: int, last: int, specification: Any) -> Any:
        """Entries of the undo log that have the values of `specification`."""
        return self._instances.call(lambda instance: instance.undoInfo(first, last, specification))

    def pack(self, time: float, references: Any) -> None:
        """Pack.  Not tried again: who asked for it sees why."""
        instance = self._instances.borrow()
        try:
            instance.pack(time, references)
        except Exception as error:
            if self._database.is_busy(error):
                raise StorageTransactionError(PACK_OR_UNDO) from error
            raise self._database.translate(error) from error
        finally:
            self._instances.drop(instance)
        self._loop.door(self._records.clear)

    can_search = True
    has_past = True
    #: What has changed since any transaction is found by an index.
    searches_any_age = True

    def changed_between(self, after: bytes, until: bytes) -> list[bytes] | None:
        """The oids written later than `after`, up to `until`; None if too many, or `after` is unknown."""
        return self._instances.call(lambda _: self._changed(u64(after), u64(until)))  # type: ignore[no-any-return]

    def _changed(self, after: int, until: int) -> list[bytes] | None:
        statements = self._database.statements
        with self._database.connection() as cursor:
            cursor.execute(statements.has, (after, after))
            if not cursor.fetchone()[0]:
                return None
            cursor.execute(f'{statements.changed} LIMIT {MOST_CHANGED + 1}', (after, until))
            oids = [p64(oid) for oid, in cursor.fetchall()]
            cursor.execute(statements.deleted, (after, until))
            for deleted, in cursor.fetchall():
                oids += [bytes(deleted[at:at + 8]) for at in range(0, len(deleted), 8)]
        return oids if len(oids) <= MOST_CHANGED else None

    def has_transaction(self, before: bytes, tid: bytes) -> bool | None:
        """Is `tid` a transaction?  None: it may have been one, of which nothing is left."""
        def ask(_: object) -> bool:
            with self._database.connection() as cursor:
                cursor.execute(self._database.statements.has, (u64(tid), u64(tid)))
                return bool(cursor.fetchone()[0])
        return self._instances.call(ask) or None

    # ---- commits ----------------------------------------------------------------------------------

    def new_syncer(self, *_: object) -> None:
        """The database syncs."""

    def pack_in_turn(self, _: object) -> None:
        """The database packs beside commits."""

    def hide(self, tid: bytes | None) -> None:
        """Nothing is hidden."""

    def start(self, *_: object) -> None:
        """`listen` does that."""

    def new_oids(self, count: int) -> list[bytes] | Deferred:
        """`count` oids that nobody has."""
        if len(self._oids) >= count:
            oids, self._oids = self._oids[:count], self._oids[count:]
            return oids

        def found(rows: Any) -> list[bytes]:
            for last, in rows:
                first = OID_RANGE * (last - 1) + 1
                self._oids += [p64(number) for number in range(first, first + OID_RANGE)]
            oids, self._oids = self._oids[:count], self._oids[count:]
            return oids
        return self.reader.ask(self._database.statements.new_oids, (-(-count // OID_RANGE),), found)

    def new_commit(self, meta: Meta, token: bytes | None, client: Any) -> DatabaseCommit:
        """A transaction of `client`, whose outcome is kept under `token`.  Raises StorageError."""
        numbers.check_tid(meta.tid, self._feed.last, self._runtime.time())
        if token is not None and type(meta.id) is int:
            return DatabaseCommit(self._parts, meta, token, meta.id, client)
        self._number += 1
        return DatabaseCommit(self._parts, meta, None, self._number, client)

    def outcome(self, token: bytes, number: int) -> Deferred:
        """The `Found` of a client; none of its transactions up to `number` can be committed later."""
        return self._fence_workers.run(token, partial(self._fences.fence, token, number))

    # ---- measuring --------------------------------------------------------------------------------

    def measure_with(self, workers: Workers) -> None:
        """Measure in a thread of `workers` from now on."""
        self._measurers = workers
        self.sizes.start(workers)
        self._upkeep.start(workers)

    def look_up(self) -> None:
        """Somebody looks at hot objects whose classes are not known."""
        strangers = self.hot.strangers
        if strangers and self._measurers is not None and not self._looking_up:
            self._looking_up = True
            self._measurers.run(self.hot, partial(self.hot.look_up, strangers)).when_settled(self._looked_up)

    def _looked_up(self, _: object, error: BaseException | None) -> None:
        self._looking_up = False
        if error is not None:
            log.debug('storage %r: the classes of objects cannot be read: %s', self._name, error)
