"""One storage as it is served: the storage, its commit queue, its history, its counters, its sessions.

In: sessions that come, go and commit; from a storage that is a client itself, what others changed.  Out:
to sessions, invalidations, once each, in the order in which the storage committed.  Loop thread only,
apart from the methods under the banner "any thread".  It knows sessions only as `Listener`.
"""
from __future__ import annotations

import datetime
import logging
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Protocol

from ZODB.POSException import StorageError, StorageTransactionError
from ZODB.utils import z64

from zeo_clone.loop.core import Loop
from zeo_clone.server import portrait
from zeo_clone.server.audience.history import History
from zeo_clone.server.backend import failure, numbers, past
from zeo_clone.server.backend.absence import is_recent
from zeo_clone.server.backend.blobfiles import BlobFiles
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.hot import HotObjects
from zeo_clone.server.backend.resolvable import Resolvable
from zeo_clone.server.backend.sizes import Sizes
from zeo_clone.server.backend.workers import Workers
from zeo_clone.server.backend.wrapper import StorageWrapper
from zeo_clone.server.clients.listen import origin
from zeo_clone.server.commits.commit import StorageCommit, later_tid, tells_tids
from zeo_clone.server.commits.commit_queue import CommitQueue
from zeo_clone.server.commits.outcomes import Outcomes
from zeo_clone.server.commits.transactor import Client, Transactor
from zeo_clone.server.commits.watchdog import Watchdog
from zeo_clone.server.latency import Latency, TimedReader
from zeo_clone.server.slowlog import SlowLog
from zeo_clone.server.stats import Stats
from zeo_clone.server.vocabulary import Meta
from zeo_clone.steps import take_steps
from zeo_clone.thresholds import WAITING
from zeo_clone.zrpc.frames import frame
from zeo_clone.zrpc.messages import encode_oneway

log = logging.getLogger(__name__)

#: So often in a minute (N15) the log says that a cache was dropped.
WARN_BURST = 6
#: A storage that does not let go of a transaction is asked so often each time: a file system may have been
#: away for a moment.
ABORT_ATTEMPTS = 2
#: Later than any tid.
AFTER_ALL = b'\xff' * 9


class Listener(Protocol):
    """What a storage tells a session."""

    def send(self, data: bytes) -> None:
        """Send the bytes of a message."""

    def disconnect(self, reason: str) -> None:
        """Close the connection; logs `reason`."""

    def describe(self) -> dict[str, Any]:
        """Address, label and numbers, for the status.  Any thread."""

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received, and waiting to be sent.  Any thread."""


class ServedStorage:
    """`storage` under its id `name`.  `timeout_s` None or 0: a commit may take for ever.  `measure`: how
    long things take.  `resolvable`: which classes may resolve conflicts.
    """

    def __init__(self, loop: Loop, name: str, storage: Any, *, history_size: int,
                 timeout_s: float | None, history_age_s: float | None = None,
                 slow_commit_s: float | None = None, slow_load_s: float | None = None,
                 client_conflict_resolution: bool = False, measure: bool = False,
                 resolvable: Resolvable | None = None,
                 of_server: Callable[[], dict[str, Any]] = dict) -> None:
        self.loop = loop
        self._of_server = of_server  # what the status says of the server as a whole
        self.name = name
        self.storage = storage
        self.slow = SlowLog(loop, name, slow_commit_s, slow_load_s)
        measure = measure or slow_commit_s is not None or slow_load_s is not None
        self.latency = Latency(loop.runtime.monotonic) if measure else None
        self.stats = Stats(loop.runtime.time())
        self.blobs = BlobFiles(loop.runtime, storage)
        helper = self.blobs.helper
        self.sizes = Sizes(loop, storage, None if helper is None else helper.base_dir)
        self.failure: str | None = None  # what the storage failed in; until its next success
        self.sessions: dict[Listener, None] = {}  # in the order in which they came
        self.client_conflict_resolution = client_conflict_resolution
        self.guard = Guard(name, resolvable or Resolvable(), client_conflict_resolution, loop.runtime)
        self.wrapper = StorageWrapper(self.guard, self._invalidated_elsewhere, self._reset_elsewhere)
        self.hot = HotObjects(self._read_in_worker, loop.runtime.monotonic)
        self._measurers: Workers | None = None  # a server has a thread for that
        self._looking_up = False  # the classes of hot objects
        self._packer = ''  # who asked for the pack that is under way
        self._stuck: StorageCommit | None = None  # what it could not abort: tpc_begin would wait for ever
        self.outcomes: Outcomes[Listener] = Outcomes()
        self._queue: CommitQueue[Transactor] = CommitQueue()
        self._watchdog = Watchdog(loop, timeout_s)
        self._shared = False  # others write to it, too: a new tid need not be one of ours
        self._elsewhere: deque[tuple[bytes, list[bytes]]] = deque()  # append and popleft are atomic
        self._history_age_s = history_age_s
        self._database = past.identity(storage, loop.runtime)
        self._first = True  # no transaction has begun yet
        self._resetting = False  # set in any thread: the storage has lost track of changes
        recent = self._past(history_size)
        self._history = History(history_size, past.last_transaction(storage, recent), recent)
        self._unfinished = past.unfinished(storage, self._history.last_tid)
        for complaint in numbers.complaints(storage, self._history.last_tid, loop.runtime.time()):
            log.critical('storage %r: %s', name, complaint)
        self.extension_methods = tuple(getattr(storage, 'getExtensionMethods', dict)())
        storage.registerDB(self.wrapper)

    def __repr__(self) -> str:
        return f'<ServedStorage {self.name!r}: {len(self.sessions)} sessions, {self._queue!r}>'

    def _past(self, size: int) -> list[tuple[bytes, list[bytes]]]:
        last = getattr(self.storage, 'lastInvalidations', None)
        return list(last(max(size, 1)) or ()) if last is not None else []

    # ---- what clients ask -------------------------------------------------------------------------

    def last_tid(self) -> bytes:
        """The last transaction that sessions have been told of; z64 if there is none."""
        self._reset()  # the storage may have failed when it was to tell where it is
        self._drain()
        return self._history.last_tid

    def knows(self, tid: bytes) -> bool:
        """Is what was written after `tid` remembered?"""
        self._drain()
        return self._history.knows(tid)

    def invalidations_after(self, tid: bytes, before: Iterable[bytes] = ()) -> Generator[None, None, Any]:
        """As `History.after`."""
        return self._history.after(tid, before)

    def has_transaction(self, tid: bytes) -> bool | None | Callable[[], bool | None]:
        """Is `tid` one of the storage's transactions?  False: it never was; None: that is not known; a
        function: a worker thread has to look."""
        self._drain()
        before = self._history.latest(tid)
        if before == tid:
            return True
        if before is None or past.file_of(self.storage) is None:
            return None
        return partial(past.has_transaction, self.storage, before, tid)

    @property
    def database(self) -> str | None:
        """The identity of the database; that of a storage that is a client itself is its server's."""
        told = getattr(self.storage, 'database', self._database)
        return told if type(told) is str else None

    def verified(self, client: str, tid: bytes, found: bool) -> None:
        """The cache of `client`, at `tid`, was brought up to date, or could not be."""
        self.stats.verifications += 1
        if not found:
            self.stats.count_trouble('verifications_failed', self.loop.runtime.time())
            why = 'is older than what is remembered (invalidation-queue-size)'
            if tid > self._history.last_tid:
                why = 'is newer than the storage'
            elif self._history.latest(tid) is not None:
                why = 'is at a transaction that is not in the storage: of another past, or packed'
            self.loop.throttle.report(
                log, logging.WARNING, 'cache', origin(client),
                '%s: its cache %s and is dropped (storage %r)', client, why, self.name, burst=WARN_BURST)

    def remembers(self, tid: bytes) -> bool:
        """May the storage itself be asked what was written after `tid`?"""
        return hasattr(self.storage, 'iterator') and tid < self._history.last_tid and is_recent(
            tid, self._history_age_s, self.loop.runtime.time())

    def info(self) -> dict[str, Any]:
        """What changes with each commit: length (objects) and size (bytes)."""
        return {'length': len(self.storage), 'size': self.storage.getSize()}

    def reader_for(self, client: Client) -> Any:
        """The storage, where `client` reads current records."""
        if self.latency is None:
            return self.storage
        slow_s = math.inf if self.slow.load_s is None else self.slow.load_s
        return TimedReader(self.storage, self.latency, slow_s, partial(self._slow_load, client))

    def _slow_load(self, client: Client, oid: bytes, revision: Any, seconds: float) -> None:
        holder, besides = self._queue.holder, ''
        if holder is not None:
            besides = f'; meanwhile {holder.client.name} held its commit lock ({holder.phase_name})'
        if self.stats.packing_time is not None:
            besides += '; it was being packed'
        self.slow.load(client.name, oid, revision, seconds, besides)

    # ---- packing ----------------------------------------------------------------------------------

    def start_packing(self, client: str) -> None:
        """`client` has it packed, or will when it is its turn.  Raises StorageTransactionError, which every
        client knows, if somebody has it packed already (L12).
        """
        since = self.stats.packing_time
        if since is not None:
            when = datetime.datetime.fromtimestamp(since).isoformat(' ', 'seconds')
            raise StorageTransactionError(
                f'already packing since {when}, asked for by {self._packer}: storage {self.name!r} is packed '
                f'once at a time; ask again when that has ended')
        self.stats.packing_time, self._packer = self.loop.runtime.time(), client
        self.sizes.packing(True)

    def stop_packing(self) -> None:
        """Done, or failed."""
        self.stats.packing_time = None
        self.sizes.packing(False)

    # ---- sessions ---------------------------------------------------------------------------------

    def join(self, session: Listener) -> None:
        """`session` gets every invalidation from now on."""
        self._drain()
        self.sessions[session] = None

    def part(self, session: Listener) -> None:
        """`session` has gone."""
        if self.sessions.pop(session, session) is None:
            sent, received, _ = session.traffic
            self.stats.sent += sent
            self.stats.received += received

    def tell_all(self, name: str, args: tuple[Any, ...], besides: object = None) -> None:
        """Call a method of every client but one."""
        if len(self.sessions) > (besides in self.sessions):
            message = frame(encode_oneway(name, args))
            for session in list(self.sessions):
                if session is not besides:
                    try:
                        session.send(message)
                    except Exception as error:
                        log.exception('storage %r: a client could not be told', self.name)
                        self._send_away([session], f'it could not be told of {name}: {type(error).__name__}')

    def _send_away(self, sessions: Iterable[Listener], reason: str) -> None:
        take_steps(f'sending clients of storage {self.name!r} away',
                   *[partial(session.disconnect, reason) for session in sessions])

    def tell_info(self, session: Listener | None = None) -> None:
        """Tell `session`, or all, length and size.  May raise: it is the storage that is asked."""
        args = (self.info(),)
        if session is None:
            self.tell_all('info', args)
        else:
            session.send(frame(encode_oneway('info', args)))

    # ---- the commit lock --------------------------------------------------------------------------

    def request(self, transactor: Transactor) -> bool:
        """Queue for the commit lock; True if it is granted at once.  Else ``granted`` is called later.

        Whoever has no connection any more is closed instead.
        """
        if not transactor.client.connected:
            transactor.close()
            return False
        if self._queue.request(transactor):
            self._locked(transactor)
            return True
        waiting = self._queue.waiting
        holder = self._queue.holder
        text = '%s: storage %r has %d transactions waiting; the commit lock is held by %s (%s)'
        args = (transactor.client.name, self.name, waiting, holder and holder.client.name,
                holder and holder.meta)
        if waiting >= WAITING:
            self.loop.throttle.report(log, logging.WARNING, 'waiting', self.name, text, *args)
        else:
            log.debug(text, *args)
        return False

    @property
    def holder(self) -> Client | None:
        """The client that holds the commit lock."""
        return None if self._queue.holder is None else self._queue.holder.client

    def describe_queue(self) -> str:
        """Who holds the commit lock, and how many wait for it; empty if it is free."""
        waiting = self._queue.waiting
        more = f', and {waiting} more waited' if waiting else ''
        return '' if self.holder is None else f'{self.holder.name}{more}'

    @property
    def waiting(self) -> int:
        """How many wait for the commit lock."""
        return self._queue.waiting

    def release(self, transactor: Transactor) -> None:
        """`transactor` leaves the queue, or gives the lock back to the next one."""
        if transactor is self._queue.holder:
            self._watchdog.stop()
            self.stats.lock_time = None
        successor = self._queue.leave(transactor)
        if successor is not None:
            # Through the door: the work of one client ends before that of the next begins.
            self.loop.door(partial(self._grant, successor))

    def _grant(self, transactor: Transactor) -> None:
        if transactor is not self._queue.holder:
            return
        if not transactor.client.connected:
            transactor.close()  # it has gone while it waited: on to the next one
            return
        self._locked(transactor)
        transactor.phase.granted()

    def _locked(self, transactor: Transactor) -> None:
        self.stats.lock_time = self.loop.runtime.time()
        self._watchdog.start(transactor)

    # ---- commits ----------------------------------------------------------------------------------

    def new_commit(self, transactor: Transactor, meta: Meta) -> StorageCommit:
        """A commit for the holder of the lock."""
        if self._stuck is not None:
            self._recover(self._stuck)  # perhaps it lets go by now
        if self._stuck is not None:
            raise StorageError(f'storage {self.name!r} has failed and is stuck in a transaction, which each '
                               f'commit tries to end; if it stays so, restart the server: {self.failure}')
        self._drain()
        numbers.check_tid(meta.tid, self._history.last_tid, self.loop.runtime.time())
        early = transactor.client.wants_early_tid
        tid = later_tid(self._history.last_tid) if meta.tid is None and early else meta.tid
        if tid is None and self._first and tells_tids(self.storage):
            runtime = self.loop.runtime
            tid = numbers.first_tid(self._history.last_tid, runtime.time(), runtime.random)
        self._first = False
        return StorageCommit(self.storage, self.guard, self.blobs, meta, tid, keep_stores=early,
                             collect_conflicts=self.client_conflict_resolution and not early)

    def committed(self, tid: bytes, oids: list[bytes], committer: Any) -> None:
        """The storage has finished a transaction: tell everybody, in this order, before anything else.
        """
        self.stats.commits += 1
        # What others did is told in the order of tids: a storage that is a client itself may have heard of a
        # later transaction already, in its own thread, when its tpc_finish comes back here.
        # Nothing of this can undo what is committed: the committer gets its tid whatever happens here.
        take_steps(f'after a commit in storage {self.name!r}', partial(self._drain, tid),
                   partial(self._publish, tid, oids, committer), self._drain,
                   partial(self.tell_info, committer))

    def abort(self, commit: StorageCommit) -> None:
        """Abort in the storage.  Never raises (L9)."""
        try:
            commit.abort()
        except Exception as error:
            self._failed('tpc_abort', error)
            self._recover(commit)

    def finish_failed(self, commit: StorageCommit, error: Exception) -> bytes:
        """``tpc_finish`` raised `error`: get the storage's own lock free, then look at what it holds (C24).

        The tid if the storage has committed nevertheless.  Raises `NothingCommitted` if it certainly has not,
        and `CommitOutcomeUnknown`.
        """
        self._failed('tpc_finish', error)
        self.abort(commit)
        self._recover(commit)
        take_steps(f'after a failure of storage {self.name!r}', self._drain)
        return failure.outcome(self.storage, self._history.last_tid, self._unfinished, commit.expected, error,
                               self._shared)

    def _recover(self, commit: StorageCommit) -> None:
        """The storage has failed in `commit`: if it holds its own lock still, have it let go.

        Never twice: a pack takes the same lock, and could lose it to a second ``tpc_abort``.
        """
        for _ in range(ABORT_ATTEMPTS):
            packing = self.stats.packing_time is not None or failure.is_packing(self.storage)
            if failure.would_wait(self.storage) and not packing:
                try:
                    commit.abort()
                except Exception as error:
                    self._failed('tpc_abort', error)
        self._stuck = commit if failure.would_wait(self.storage) else None

    def _failed(self, what: str, error: Exception) -> None:
        self.failure = f'{what}: {type(error).__name__}: {str(error)[:1000]}'
        self.loop.throttle.report(log, logging.CRITICAL, f'{what}: {type(error)}', self.name,
                                  'storage %r failed in %s', self.name, what, error=error)

    def _publish(self, tid: bytes, oids: list[bytes], committer: Any) -> None:
        try:
            self._history.add(tid, oids)
            self.stats.invalidations += len(oids)
            self.tell_all('invalidateTransaction', (tid, oids), committer)
        except Exception:  # no memory, say: nobody may go on without knowing of it
            log.exception('storage %r: clients could not be told of transaction %s', self.name, tid.hex())
            self._resetting = True
            self._reset()

    def _drain(self, before: bytes = AFTER_ALL) -> None:
        """Publish what came from elsewhere before a tid, before anything later is said."""
        while self._elsewhere and self._elsewhere[0][0] < before:
            self._publish(*self._elsewhere.popleft(), None)

    def _reset(self) -> None:
        if not self._resetting:
            return  # the storage has told it more than once
        self._send_away(list(self.sessions),
                        'the served storage has lost track of changes; caches must be verified')
        last_tid = self.storage.lastTransaction() or z64  # waits until all has been told (C23)
        self._resetting = False
        self._elsewhere.clear()
        self._history.forget(last_tid)

    def measure_with(self, workers: Workers) -> None:
        """Measure sizes, and look up classes, in a thread of `workers`."""
        self._measurers = workers
        self.sizes.start(workers)

    def _look_up(self) -> None:
        """Somebody looks at hot objects whose classes are not known."""
        strangers = self.hot.strangers
        if strangers and self._measurers is not None and not self._looking_up:
            self._looking_up = True
            self._measurers.run(self.hot, partial(self.hot.look_up, strangers)).when_settled(self._looked_up)

    def _looked_up(self, _: object, error: BaseException | None) -> None:
        self._looking_up = False
        if error is not None:
            log.debug('storage %r: the classes of objects cannot be read: %s', self.name, error)

    # ---- any thread -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The dict of ``server_status``."""
        try:
            last_tid = self.storage.lastTransaction() or z64
        except Exception:
            last_tid = self._history.last_tid
        now, locked = self.loop.runtime.time(), self.stats.lock_time
        status = self.stats.as_dict(len(self.sessions), self._queue.waiting, last_tid, self.failure, now)
        status['lock_holder'] = portrait.lock_holder(self._queue.holder, now - (locked or now))
        status['waiting_clients'] = portrait.waiting_clients(self._queue.in_line())
        status['clients'] = portrait.clients(self.sessions)
        stats = self.stats
        status['sent'], status['received'] = portrait.traffic(self.sessions, stats.sent, stats.received)
        status['sizes'] = self.sizes.as_dict()
        status['hot'] = self.hot.as_dict()
        if self.hot.strangers:
            self.loop.door(self._look_up)
        if self.latency is not None:
            status['latency'] = self.latency.as_dict()
        of_server = self._of_server()
        return {**status, **of_server, 'latest': {**status['latest'], **of_server.get('latest', {})}}

    def _read_in_worker(self, oid: bytes, tid: bytes) -> Any:
        return self.guard.read(partial(self.storage.loadBefore, oid, tid))

    def _invalidated_elsewhere(self, tid: bytes, oids: list[bytes]) -> None:
        self._shared = True
        self._elsewhere.append((tid, oids))
        self.loop.door(self._drain)

    def _reset_elsewhere(self) -> None:
        self._resetting = True
        self.loop.door(self._reset)
