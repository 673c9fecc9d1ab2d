"""All that is asked of one storage.

In: questions of clients and commits.  Out: answers.  A client's load, serial, tid and new oids may also be a
`Deferred`, so that a backend whose storage would have to be waited for can answer later; a batch of loads is
read at once.  What the storage can do was found out once, at start (`abilities`).  It has never heard of a
client.  Loop thread only, apart from what is handed to worker threads.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

from ZODB.utils import maxtid, z64

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend import numbers, past
from zeo_clone.server.backend.abilities import Abilities, check_safe
from zeo_clone.server.backend.blobfiles import BlobFiles
from zeo_clone.server.backend.chronicle import Chronicle
from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.backend.failure import Failures
from zeo_clone.server.backend.finished import transactions
from zeo_clone.server.backend.groupcommit import Syncer, Turns, has_quick_reads
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.horizon import CurrentReader, Horizon
from zeo_clone.server.backend.hot import HotObjects
from zeo_clone.server.backend.missed import changed_between
from zeo_clone.server.backend.packing import Packing
from zeo_clone.server.backend.sizes import Sizes
from zeo_clone.server.backend.workers import Workers
from zeo_clone.server.backend.wrapper import StorageWrapper
from zeo_clone.server.stats import Stats
from zeo_clone.server.vocabulary import Meta

log = logging.getLogger(__name__)

#: What a transaction wrote: its tid and oids.
Written = tuple[bytes, list[bytes]]


class Backend:
    """What is asked of `storage`, which messages call `name`.  Raises ValueError if it cannot be served."""

    def __init__(self, loop: Loop, name: str, storage: Any, guard: Guard,
                 stats: Stats) -> None:
        runtime = loop.runtime
        self._loop = loop
        self._name = name
        self._storage = storage
        self._runtime = runtime
        self._guard = guard
        check_safe(storage, runtime)
        self.abilities = abilities = Abilities(storage)
        self._horizon = Horizon(storage) if abilities.can_finish_later else None
        self._shown: Any = storage if self._horizon is None else self._horizon  # what clients may see
        #: Threads for what may take long; None: its questions come to an end soon, those of all storages do.
        self.workers: Workers | None = None
        #: Where current records are read: has ``loadBefore``.
        self.reader: Any = self._shown
        if self._horizon is not None and has_quick_reads(storage):
            self.reader = CurrentReader(storage, self._horizon)
        self.files = BlobFiles(runtime, storage, abilities)
        helper = self.files.helper
        self.sizes = Sizes(loop, storage, None if helper is None else helper.base_dir)
        self.packing = Packing(name, storage, abilities, guard, self.files, self.sizes, stats, runtime)
        self.failures = Failures(name, storage, abilities, self.packing, loop.throttle)
        self.hot = HotObjects(self._read_in_worker, runtime.monotonic)
        self._measurers: Workers | None = None  # a server has a thread for that
        self._looking_up = False  # the classes of hot objects
        self.chronicle = Chronicle(storage, abilities, runtime, self._horizon)
        self._first = True  # no transaction has begun yet
        self._identity = past.identity(storage, abilities, runtime)
        self.commit_class: Callable[..., StorageCommit] = StorageCommit

    def __repr__(self) -> str:
        return f'<Backend {self.abilities!r}>'

    # ---- at start ---------------------------------------------------------------------------------

    def recent(self, size: int) -> list[Written]:
        """What the last `size` transactions wrote, as far as the storage tells."""
        if not self.abilities.has('lastInvalidations'):
            return []
        return list(self._storage.lastInvalidations(max(size, 1)) or ())

    def last_of(self, recent: list[Written]) -> bytes:
        """The tid of the last transaction, z64 if there is none; `recent` as above."""
        last = past.last_transaction(self._storage, self.abilities, recent)
        self.failures.unfinished = past.unfinished(self._storage, self.abilities, last)
        return last

    def complaints(self, last_tid: bytes) -> Iterator[str]:
        """What is wrong with the numbers that are in the storage already."""
        return numbers.complaints(last_tid, self.abilities.highest_oid, self._runtime.time())

    def start(self, heard: Callable[[bytes, list[bytes]], object], lost_track: Callable[[], object]) -> None:
        """Have the storage tell what others change, in whatever thread it uses."""
        if self.abilities.file is not None:  # another storage knows what it gave out, or begins anew itself
            numbers.pass_over_oids(self._storage, self.abilities.highest_oid, self._runtime.random)
        self._storage.registerDB(StorageWrapper(self._guard, partial(self._heard, heard), lost_track))

    def _heard(self, heard: Callable[[bytes, list[bytes]], object], tid: bytes, oids: list[bytes]) -> None:
        self.failures.has_other_writers = True
        heard(tid, oids)

    # ---- what it is -------------------------------------------------------------------------------

    @property
    def database(self) -> str | None:
        """The identity of the database; that of a storage that is a client itself is its server's."""
        told = self._storage.database if self.abilities.tells_database else self._identity
        return told if type(told) is str else None

    @property
    def is_read_only(self) -> bool:
        """Takes it no commits?"""
        return bool(self._storage.isReadOnly())

    @property
    def is_connected(self) -> bool:
        """Has it found what it depends on, a server of its own say?"""
        return not self.abilities.has('is_connected') or bool(self._storage.is_connected())

    def last_transaction(self) -> bytes:
        """The last tid; z64 if there is none.  Raises what the storage raises.  Any thread."""
        tid: bytes = self._storage.lastTransaction() or z64
        return tid

    def info(self) -> dict[str, Any]:
        """What changes with each commit: length (objects) and size (bytes)."""
        return {'length': len(self._storage), 'size': self._storage.getSize()}

    def describe(self) -> dict[str, Any]:
        """What a client is told of it besides: names and abilities."""
        return {'name': self._storage.getName(), 'supportsUndo': self.abilities.supports_undo(),
                'supports_record_iternext': self.abilities.has('record_iternext'),
                'interfaces': self.abilities.interfaces()}

    # ---- reading ----------------------------------------------------------------------------------

    def load_serial(self, oid: bytes, serial: bytes) -> Any:
        """The data of a revision."""
        return self._shown.loadSerial(oid, serial)

    def get_tid(self, oid: bytes) -> Any:
        """The serial of an object."""
        return self._shown.getTid(oid)

    def method(self, name: str) -> Any:
        """A method that not every storage has.  Raises Unsupported."""
        method = self.abilities.method(name)
        if name == 'iterator':
            return partial(transactions, self._shown)
        return method if self._horizon is None else getattr(self._horizon, name, method)

    def open_blob(self, oid: bytes, serial: bytes) -> IO[bytes]:
        """Worker thread: the file of a blob.  Raises POSKeyError."""
        return self._runtime.open(self.method('loadBlob')(oid, serial), 'rb')

    def extension(self, name: str) -> Any:
        """A method that the storage itself offers to clients."""
        return getattr(self._storage, name)

    def for_client(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """`function`, which reads for a client, as a worker thread has to call it."""
        return partial(self._guard.read, function)

    # ---- reading: worker threads ------------------------------------------------------------------

    @property
    def can_search(self) -> bool:
        """Can it look for what has changed?"""
        return self.abilities.has('iterator')

    #: What has changed is found by reading all that came after.
    searches_any_age = False

    @property
    def has_past(self) -> bool:
        """Can it tell whether there was a transaction?"""
        return self.abilities.file is not None

    def changed_between(self, after: bytes, until: bytes) -> list[bytes] | None:
        """As in `missed`."""
        return changed_between(self._shown, after, until)

    def has_transaction(self, before: bytes, tid: bytes) -> bool | None:
        """As in `past`."""
        return past.has_transaction(self._shown, before, tid)

    # ---- commits that are not on the disk when they end ---------------------------------------------

    def new_syncer(self, door: Callable[[Callable[[], object]], object],
                   synced: Callable[[bytes | None, Exception | None], None]) -> Syncer | None:
        """What syncs them; None if ``tpc_finish`` does."""
        if self._horizon is None:
            return None
        return Syncer(self._storage, self._runtime, door, synced)

    def pack_in_turn(self, turns: Turns) -> None:
        """A pack is to wait for its turn, rather than commits in the loop's thread for it."""
        if self._horizon is not None:
            self._storage.pack_in_turn(turns)

    def hide(self, tid: bytes | None) -> None:
        """From now on clients see nothing of the transaction `tid`, nor of later ones; None: they see all."""
        if self._horizon is not None:
            self._horizon.hidden = tid

    # ---- measuring --------------------------------------------------------------------------------

    def measure_with(self, workers: Workers) -> None:
        """Measure sizes, and look up classes, in a thread of `workers`."""
        self._measurers = workers
        self.sizes.start(workers)

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

    def _read_in_worker(self, oid: bytes, tid: bytes) -> Any:
        return self._guard.read(partial(self._shown.loadBefore, oid, tid))

    # ---- writing ----------------------------------------------------------------------------------

    def new_oids(self, count: int) -> list[bytes]:
        """At most `count` oids that nobody has.  Raises StorageError when there are none left."""
        return numbers.new_oids(self._storage, count)

    def new_commit(self, meta: Meta, last_tid: bytes, early_tid: bool,
                   collect_conflicts: bool) -> StorageCommit:
        """A transaction after `last_tid`; nobody else has one under way.  Raises StorageError.

        With `early_tid` its tid is chosen now, and its stores are kept; with `collect_conflicts` conflicts
        are told instead of raised.
        """
        now = self._runtime.time()
        if meta.tid is not None or last_tid >= maxtid:
            numbers.check_tid(meta.tid, last_tid, now)
        tid = numbers.later_tid(last_tid, now) if meta.tid is None and early_tid else meta.tid
        if tid is None and self._first and self.abilities.tells_tids:
            tid = numbers.first_tid(last_tid, now, self._runtime.random)
        self._first = False
        return self.commit_class(self._storage, self.abilities, self._guard, self.files, meta, tid,
                                 keep_stores=early_tid, collect_conflicts=collect_conflicts)
