"""One session's transactions, one at a time: which phase, under which id, and what is said about it.

In: the transaction methods of the protocol.  Out: results, `Deferred` ones for votes; to the client,
through `Client`, what a commit tells it.  Loop thread only.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ZODB.POSException import ConflictError, ReadOnlyError, StorageTransactionError

from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.blobfiles import BlobFiles
from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.commits.lock import CommitLock
from zeo_clone.server.commits.operations import Operations, Share, Uploads
from zeo_clone.server.commits.phases import Finishing, Idle, Phase
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.latency import Laps, Latency
from zeo_clone.server.slowlog import SlowLog
from zeo_clone.server.stats import Stats
from zeo_clone.server.vocabulary import Meta, NothingCommitted, Operation
from zeo_clone.steps import take_steps
from zeo_clone.wording import format_seconds

log = logging.getLogger(__name__)

#: How a ``tpc_finish`` has ended, in the log.
COMMITTED, UNKNOWN = 'committed', 'it is not known whether it was committed'
NOTHING = 'nothing was committed'
#: So many time-outs of a storage are told in a minute, and how many there were (S16).
MAX_TIMEOUTS = 10


class Client(Protocol):
    """What a transaction wants to know of, and tell, its client."""

    @property
    def name(self) -> str:
        """Peer and label, for log lines."""

    @property
    def connected(self) -> bool:
        """Is it still there?"""

    @property
    def share(self) -> Share:
        """Its share of what waits in memory."""

    def check_room(self) -> None:
        """Raises OSError if there is no descriptor for a file of its."""

    @property
    def wants_early_tid(self) -> bool:
        """Whether tids must be known at the vote (ZEO 4)."""

    def report_vote(self, commit: StorageCommit) -> object:
        """Say what the storage made of the stores; the value of the vote's reply."""

    def report_failed_store(self, commit: StorageCommit, error: Exception) -> bool:
        """Say that a store failed, if that is how this client learns it; else False."""

    def run_sync(self, function: Callable[[], object]) -> Deferred:
        """Have `function`, which waits for the disk, called in a worker thread."""

    def send_oneway(self, name: str, args: tuple[object, ...]) -> None:
        """Call a method of the client."""

    def note_outcome(self, transaction_id: object, tid: bytes | None) -> None:
        """Remember that a transaction was committed; `tid` None: it is not known whether."""

    def note_nothing(self, transaction_id: object) -> None:
        """After `note_outcome` with None: remember that nothing was committed."""

    def disconnect(self, reason: str) -> None:
        """Close the connection; logs `reason`."""


class Served(Protocol):
    """What a transaction wants of the storage that it is for."""

    loop: Loop
    name: str
    stats: Stats
    latency: Latency | None
    slow: SlowLog
    lock: CommitLock

    #: Are the steps of a commit carried out elsewhere, so that their results come later?
    is_distant: bool

    def replay(self, owner: Transactor, meta: Meta, commit: Any, operations: Operations,
               reply: Deferred) -> None:
        """If it is distant: carry out the operations and vote."""

    @property
    def shares_syncs(self) -> bool:
        """Are transactions finished before they are on the disk?"""

    @property
    def files(self) -> BlobFiles:
        """Where blobs are kept on their way into the storage."""

    def new_commit(self, client: Client, meta: Meta) -> StorageCommit:
        """A commit of `client`, which holds the lock."""

    def abort(self, commit: StorageCommit) -> None:
        """Abort in the storage.  Never raises (L9)."""

    def finish(self, commit: StorageCommit) -> bytes:
        """Finish in the storage; the tid.  Raises `NothingCommitted`, `CommitOutcomeUnknown`."""

    def committed(self, tid: bytes, oids: list[bytes], committer: Client) -> bytes | Deferred:
        """The storage has finished a transaction: tell everybody, now or when it is on the disk; the tid."""

    def when_on_disk(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, now or as a `Deferred` when what has been finished is on the disk."""


class Transactor:
    """The transactions of `client` in `served`."""

    def __init__(self, served: Served, client: Client, read_only: bool) -> None:
        self.served = served
        self.client = client
        self.loop: Loop = served.loop
        self.runtime = served.loop.runtime
        self._read_only = read_only
        self._laps = Laps(served.latency) if served.latency is not None else None
        self._waited_for = ''  # who held the commit lock when the transaction came to it
        self.meta: Meta | None = None  # of the transaction under way
        self.idle = Idle(self)
        self.phase: Phase = self.idle

    def __repr__(self) -> str:
        return f'<Transactor of {self.client.name}: {self.phase!r}>'

    def move(self, phase: Phase) -> None:
        """The one function that changes the phase."""
        if self.phase is self.idle:
            self.served.stats.active_txns += 1
        if phase is self.idle:
            self.served.stats.active_txns -= 1
        laps = self._laps
        if laps is not None:
            laps.moved(self.phase.name, phase.name)
            if phase is self.idle and 'finishing' not in laps.spent_s:
                self._tell_if_slow(laps, 'it was not committed')
            elif phase.name == 'waiting':
                self._waited_for = self.served.lock.describe()
        self.phase = phase

    def _tell_if_slow(self, laps: Laps, how: str) -> None:
        """A transaction has ended; of one that had failed before this was told then."""
        if laps.spent_s.keys() != {'doomed'} and self.meta is not None:
            self.served.slow.commit(self.client.name, self.meta, laps.spent_s, self._waited_for, how)
        self._waited_for = ''

    @property
    def phase_name(self) -> str:
        """``idle``, ``begun``, ``syncing``, ``waiting``, ``replaying``, ``resolving``, ``voted``,
        ``finishing`` or ``doomed``."""
        return self.phase.name

    def new_operations(self) -> Operations:
        """A place to keep operations until the vote."""
        client = self.client
        uploads = Uploads(self.served.files, client.run_sync, client.check_room)
        return Operations(self.runtime, uploads, client.share, client.check_room)

    def note_failure(self, error: Exception) -> None:
        """Count a conflict, which is ordinary (L4).  Other failures are logged with the vote's reply."""
        if isinstance(error, ConflictError):
            self.served.stats.count_conflict(error.class_name or 'unknown')
            oid = error.oid.hex() if isinstance(error.oid, bytes) else error.oid
            log.debug('%s: conflict at oid %s of class %s', self.client.name, oid, error.class_name)

    # ---- the protocol's methods -------------------------------------------------------------------

    def begin(self, meta: Meta) -> None:
        """``tpc_begin``."""
        self.phase.begin(meta)
        self.meta = meta
        if self._read_only:
            self.phase.doom(ReadOnlyError())

    def _check(self, transaction_id: object) -> None:
        if self.meta is None or self.meta.id != transaction_id or self.phase is self.idle:
            raise StorageTransactionError('this transaction is not under way in this session')

    def add(self, transaction_id: object, operation: Operation) -> None:
        """Any operation that waits for the vote."""
        phase, meta = self.phase, self.meta
        if meta is None or meta.id != transaction_id or phase is self.idle:
            self._check(transaction_id)
        phase.add(operation)

    def start_blob(self) -> None:
        """``storeBlobStart``."""
        self.phase.start_blob()

    def write_blob(self, chunk: bytes) -> None:
        """``storeBlobChunk``."""
        self.phase.write_blob(chunk)

    def end_blob(self, transaction_id: object, operation: Operation) -> None:
        """``storeBlobEnd``."""
        self._check(transaction_id)
        self.phase.end_blob(operation)

    def share_blob(self, transaction_id: object, operation: Operation) -> None:
        """``storeBlobShared``."""
        self._check(transaction_id)
        self.phase.share_blob(operation)

    def doom(self, error: Exception) -> bool:
        """An operation was bad: remember that until the vote.  False if there is nothing to doom."""
        try:
            self.phase.doom(error)
        except StorageTransactionError:
            return False
        return True

    def vote(self, transaction_id: object) -> Deferred:
        """``vote``."""
        self._check(transaction_id)
        return self.phase.vote()

    def finish(self, transaction_id: object) -> bytes | Deferred:
        """``tpc_finish``; the tid, perhaps later."""
        self._check(transaction_id)
        self.client.note_outcome(transaction_id, None)  # until it is known
        since = self._laps.finishing(self.phase.name) if self._laps is not None else 0.0
        tid, how = None, UNKNOWN
        try:
            tid = self.phase.finish()
            how = COMMITTED
        except NothingCommitted as error:
            how = NOTHING
            self.client.note_nothing(transaction_id)
            raise error.cause from None
        finally:
            if not isinstance(tid, Deferred):
                self._ended(how)
        if isinstance(tid, Deferred):
            answer = Deferred()
            tid.when_settled(partial(self._came, self.phase, transaction_id, since, answer))
            return answer
        self._finished(transaction_id, since, tid)
        return tid

    def _ended(self, how: str) -> None:
        if self._laps is not None:
            self._tell_if_slow(self._laps, how)

    def _finished(self, transaction_id: object, since: float, tid: bytes) -> None:
        if self._laps is not None:
            self._laps.finished(since)
        self.client.note_outcome(transaction_id, tid)

    def over(self, finishing: Phase) -> None:
        """The transaction that was in the phase `finishing` is over."""
        if self.phase is finishing and finishing is not self.idle:
            self.move(self.idle)

    def _came(self, finishing: Phase, transaction_id: object, since: float, answer: Deferred, tid: Any,
                 error: BaseException | None) -> None:
        """The transaction is on the disk, or it is not known whether it ever will be."""
        self.over(finishing)
        self._ended(COMMITTED if error is None else
                    NOTHING if isinstance(error, NothingCommitted) else UNKNOWN)
        if error is None:
            self._finished(transaction_id, since, tid)
        elif isinstance(error, NothingCommitted):
            self.client.note_nothing(transaction_id)
            error = error.cause
        answer.settle(tid, error)

    def abort(self, transaction_id: object) -> Deferred | None:
        """``tpc_abort``.  Nothing happens for a transaction that is not under way.  Perhaps later."""
        if self.meta is not None and self.meta.id == transaction_id and self.phase is not self.idle:
            self._abort()
        return self.phase.ending

    def close(self) -> None:
        """The session ends: whatever is under way is aborted."""
        if self.phase is not self.idle:
            self._abort()

    def _abort(self) -> None:
        self.served.stats.aborts += not self.phase.is_over
        self.phase.abort()

    def held_long(self, held_s: float) -> None:
        """The commit lock is held for long: others may wonder who keeps them waiting."""
        if not self.client.connected:
            log.error('%s: its connection is closed, but it held the commit lock of storage %r: it loses it',
                      self.client.name, self.served.name)
            self.close()
            return
        log.warning('%s: has held the commit lock of storage %r for %s (%s, %s), %d more wait for it',
                    self.client.name, self.served.name, format_seconds(held_s), self.meta, self.phase_name,
                    self.served.lock.waiting)

    def timed_out(self, timeout_s: float) -> None:
        """The commit lock was held too long."""
        if isinstance(self.phase, Finishing):  # by the storage: its client only waits for the outcome
            log.warning('%s: the storage %r has not ended its transaction in %s', self.client.name,
                        self.served.name, format_seconds(timeout_s))
            return
        if self.phase.refuse(ClientDisconnected(
                f'storage {self.served.name!r} did not vote within {format_seconds(timeout_s)} '
                f'(transaction-timeout): nothing was committed. What is behind it, another server or a '
                f'database, is slow or away')):
            log.warning('%s: the storage %r has not voted on its transaction (%s) in %s: it is refused',
                        self.client.name, self.served.name, self.meta, format_seconds(timeout_s))
            return
        self.served.stats.count_trouble('timeouts', self.runtime.monotonic())
        self.loop.throttle.report(
            log, logging.CRITICAL, 'timeout', self.served.name,
            'Transaction timeout: %s held the commit lock of storage %r for %s (%s) and is disconnected',
            self.client.name, self.served.name, format_seconds(timeout_s), self.meta, burst=MAX_TIMEOUTS)
        # The end of the connection ends the transaction, unless that has been missed: then it is ended here.
        take_steps(f'the timeout of {self.client.name}',
                   partial(self.client.disconnect, 'transaction timeout'), self.close)
