"""One storage as it is served: joins one backend, one commit lock and one audience.

In: sessions that come, go and commit.  Out: to them, invalidations, once each, in the order in which the
storage committed; the status.  Loop thread only, apart from `status`.
"""
from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from zeo_clone.loop.core import Loop
from zeo_clone.server import overview
from zeo_clone.server.audience.audience import Attendee, Audience, Told
from zeo_clone.server.audience.history import History
from zeo_clone.server.audience.verification import Asker, Verification
from zeo_clone.server.backend.backend import Backend
from zeo_clone.server.backend.blobfiles import BlobFiles
from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.resolvable import Resolvable
from zeo_clone.server.commits.lock import CommitLock
from zeo_clone.server.commits.outcomes import Outcomes
from zeo_clone.server.commits.transactor import Client
from zeo_clone.server.commits.unsynced import Finished, Unsynced
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.latency import Latency, TimedReader
from zeo_clone.server.slowlog import SlowLog
from zeo_clone.server.stats import Stats
from zeo_clone.server.vocabulary import Meta
from zeo_clone.steps import take_steps
from zeo_clone.wording import format_moment
from zeo_clone.zrpc.channel.server import describe

log = logging.getLogger(__name__)

#: Packs of clients of one host that the log tells of in a minute (S16).
PACKS_BURST = 20
#: Has a function called in a worker thread.
Run = Callable[[Callable[[], Any]], Deferred]


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
        self.name = name
        self._of_server = of_server  # what the status says of the server as a whole
        self._by_clients = client_conflict_resolution
        self.stats = Stats(loop.runtime.monotonic(), loop.runtime.time())
        self.slow = SlowLog(loop, name, slow_commit_s, slow_load_s)
        measure = measure or slow_commit_s is not None or slow_load_s is not None
        self.latency = Latency(loop.runtime.monotonic) if measure else None
        guard = Guard(name, resolvable or Resolvable(), client_conflict_resolution, loop.runtime)
        self.backend = backend = self._make_backend(storage, guard)
        self.lock = CommitLock(loop, name, self.stats, timeout_s, self.commits_at_once)
        backend.pack_in_turn(self.lock)
        self.outcomes: Outcomes[Attendee] = Outcomes()
        recent = backend.recent(history_size)
        history = History(history_size, backend.last_of(recent), recent)
        self.audience = Audience(loop, name, self.stats, history, self._last_shown)
        self.verification = Verification(loop, name, self.stats, self.audience, backend, history_age_s)
        for complaint in backend.complaints(history.last_tid):
            log.critical('storage %r: %s', name, complaint)
        self._syncer = backend.new_syncer(loop.door, self._synced)
        self._unsynced = None if self._syncer is None else Unsynced(
            self._syncer, backend.hide, self._on_disk, backend.failures.sync_failed)
        self._listen()

    #: Are the steps of a commit carried out elsewhere, so that their results come later?
    is_distant = False
    #: So many transactions can be in the storage at the same time.
    commits_at_once = 1
    #: Can it be told at the vote which tid a transaction will get, as clients of ZEO 4 want it?
    takes_z4 = True
    #: By which clients know the storage again at another server, where that can tell outcomes (C11).
    instance: str | None = None

    def _make_backend(self, storage: Any, guard: Guard) -> Backend:
        return Backend(self.loop, self.name, storage, guard, self.stats)

    def _listen(self) -> None:
        """From now on hear of what others write."""
        self.backend.start(self.audience.heard, self.audience.lost_track)

    def __repr__(self) -> str:
        return f'<ServedStorage {self.name!r}: {len(self.audience)} sessions, {self.lock!r}>'

    # ---- reading ----------------------------------------------------------------------------------

    def reader_for(self, client: Client) -> Any:
        """The storage, where `client` reads current records."""
        reader = self.backend.reader
        if self.latency is None:
            return reader
        slow_s = math.inf if self.slow.load_s is None else self.slow.load_s
        return TimedReader(reader, self.latency, slow_s, partial(self._slow_load, client))

    def _slow_load(self, client: Client, oid: bytes, revision: Any, seconds: float) -> None:
        holder, besides = self.lock.holder, ''
        if holder is not None:
            besides = f'; meanwhile {holder.client.name} held its commit lock ({holder.phase_name})'
        if self.backend.packing.under_way:
            besides += '; it was being packed'
        self.slow.load(client.name, oid, revision, seconds, besides)

    @property
    def files(self) -> BlobFiles:
        """Where blobs are kept on their way into the storage."""
        return self.backend.files

    # ---- commits ----------------------------------------------------------------------------------

    @property
    def shares_syncs(self) -> bool:
        """Are transactions finished before they are on the disk?"""
        return self._unsynced is not None

    def new_commit(self, client: Client, meta: Meta) -> StorageCommit:
        """A commit of `client`, which holds the lock."""
        if self.backend.failures.stuck is not None:
            self.backend.failures.check()
        if self._unsynced is not None:
            self._unsynced.check()
        self.audience.drain()
        early = client.wants_early_tid
        return self.backend.new_commit(meta, self._last_finished(), early,
                                       collect_conflicts=self._by_clients and not early)

    def abort(self, commit: StorageCommit) -> None:
        """Abort in the storage.  Never raises (L9)."""
        self.backend.failures.abort(commit)

    def finish(self, commit: StorageCommit) -> bytes:
        """Finish in the storage; the tid.  Raises `NothingCommitted`, `CommitOutcomeUnknown`."""
        failures, unsynced = self.backend.failures, self._unsynced
        if unsynced is not None and commit.expected is not None:
            unsynced.begin(commit.expected)
        try:
            tid: bytes = commit.finish()
        except Exception as error:
            try:
                return failures.finish_failed(commit, error, self._last_known)
            except BaseException:
                if unsynced is not None:
                    unsynced.cancel()
                raise
        if unsynced is None:
            failures.latest = None
        return tid

    def _last_known(self) -> bytes:
        take_steps(f'after a failure of storage {self.name!r}', self.audience.drain)
        return self._last_finished()

    def _last_finished(self) -> bytes:
        """The last transaction that was finished, told or not."""
        last, unsynced = self.audience.history.last_tid, self._unsynced
        return last if unsynced is None or unsynced.latest is None else max(last, unsynced.latest)

    def committed(self, tid: bytes, oids: list[bytes], committer: Client) -> bytes | Deferred:
        """The storage has finished a transaction: tell everybody, in this order, before anything else.

        The tid; later, if it is not on the disk yet.  Raises `CommitOutcomeUnknown` if it does not get there.
        """
        if self._unsynced is None:
            self._tell(tid, oids, committer)
            return tid
        finished = Finished(tid, oids, committer, Deferred())
        self._unsynced.add(finished)
        reply = finished.reply
        if not reply.settled:
            return reply
        if reply.error is not None:
            raise reply.error
        return tid

    def _tell(self, tid: bytes, oids: list[bytes], committer: Client) -> None:
        audience = self.audience
        self.stats.commits += 1
        # What others did is told in the order of tids: a storage that is a client itself may have heard of a
        # later transaction already, in its own thread, when its tpc_finish comes back here.
        # Nothing of this can undo what is committed: the committer gets its tid whatever happens here.
        take_steps(f'after a commit in storage {self.name!r}', partial(audience.drain, tid),
                   partial(audience.publish, tid, oids, committer), audience.drain,
                   partial(self._tell_info, committer))

    def _on_disk(self, group: list[Finished]) -> None:
        """These are on the disk: each client is told of all of them at once, of its own at its place."""
        self.backend.failures.latest = None
        self.backend.files.drop_notes(group[-1].tid)
        if len(group) == 1:
            (tid, oids, committer, reply), = group
            self._tell(tid, oids, committer)
            reply.succeed(tid)
            return
        self.stats.commits += len(group)
        told = [Told(one.tid, one.oids, one.committer, partial(self._tell_committer, one)) for one in group]
        # Nothing of this can undo what is committed: each committer gets its tid whatever happens here.
        take_steps(f'after commits in storage {self.name!r}', partial(self.audience.publish_group, told),
                   *[partial(one.reply.succeed, one.tid) for one in group])

    def _tell_committer(self, finished: Finished) -> None:
        take_steps(f'after a commit in storage {self.name!r}', partial(self._tell_info, finished.committer),
                   partial(finished.reply.succeed, finished.tid))

    def _synced(self, tid: bytes | None, error: Exception | None) -> None:
        if self._unsynced is not None:
            self._unsynced.synced(tid, error)

    def when_on_disk(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, now or as a `Deferred` when what has been finished is on the disk."""
        if self._unsynced is None or not len(self._unsynced):
            return function()
        answer = Deferred()
        self._unsynced.when_on_disk().when_settled(lambda _, error: answer.succeed(function()))
        return answer

    def when_fresh(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, when all has been told that is committed by now."""
        return function()

    def when_current(self, function: Callable[[], Any]) -> Any:
        """`when_fresh`, also of what was committed above, at a server of the storage's own (C20)."""
        return self.when_fresh(function)

    def commit_outcome(self, token: bytes, number: int) -> Any:
        """What became of transaction `number` of the client `token`; later if that is not known yet."""
        return self.when_on_disk(partial(self.outcomes.find, token, number))

    def load_batch(self, oids: list[bytes], tid: bytes) -> Deferred:
        """If it is distant: the revisions of `oids` before `tid`."""
        raise NotImplementedError

    def replay(self, owner: Any, meta: Meta, commit: Any, operations: Any, reply: Deferred) -> None:
        """If it is distant: carry out the operations and vote."""
        raise NotImplementedError

    def close(self, timeout_s: float) -> None:
        """At the end: what is on its way to the disk gets there, in that time, and its clients are told."""
        self.lock.close()
        if self._syncer is not None:
            self._synced(self._syncer.end(timeout_s), None)
        self.backend.files.close()

    def _tell_info(self, committer: Client) -> None:
        committer.send_oneway('info', (self.backend.info(),))

    # ---- packing ----------------------------------------------------------------------------------

    def pack(self, asker: Asker, time: float, run: Run) -> Deferred:
        """Pack on behalf of `asker`, then tell all; the result is None.

        Raises StorageTransactionError if it is being packed.
        """
        done, packing = Deferred(), self.backend.packing
        packing.start(asker.name)
        self._report_packing('packs', asker, '%s: packs storage %r to %s', asker.name, self.name,
                             format_moment(time))
        run(partial(packing.run, time)).when_settled(partial(self._packed, asker, done))
        return done

    def _report_packing(self, kind: str, asker: Asker, text: str, *args: object) -> None:
        self.loop.throttle.report(log, logging.INFO, kind, asker.origin, text, *args, burst=PACKS_BURST)

    def _packed(self, asker: Asker, done: Deferred, _: Any, error: BaseException | None) -> None:
        self.backend.packing.stop()
        if error is not None:
            self._report_packing('not packed', asker, '%s: the pack of storage %r has failed: %s', asker.name,
                                 self.name, describe(error))
            done.fail(error)
            return
        self._report_packing('packed', asker, '%s: storage %r is packed', asker.name, self.name)
        take_steps(f'the end of packing storage {self.name!r}', self._tell_all_info,
                   partial(done.succeed, None))

    def _tell_all_info(self) -> None:
        self.audience.tell_all('info', (self.backend.info(),))

    # ---- any thread -------------------------------------------------------------------------------

    def _last_shown(self) -> bytes:
        """The last transaction that clients may know of.  Raises what the storage raises."""
        if self._unsynced is not None and self._unsynced.hides_some:
            return self.audience.history.last_tid
        return self.backend.last_transaction()

    def status(self) -> dict[str, Any]:
        """The dict of ``server_status``."""
        try:
            last_tid = self._last_shown()
        except Exception:
            last_tid = self.audience.history.last_tid
        now, locked = self.loop.runtime.monotonic(), self.stats.lock_time
        status = self.stats.as_dict(len(self.audience), self.lock.waiting, last_tid,
                                    self.backend.failures.latest, now, self.loop.runtime.time())
        status['lock_holder'] = overview.lock_holder(self.lock.holder, now - (locked or now))
        status['waiting_clients'] = overview.waiting_clients(self.lock.in_line())
        present, stats = self.audience.present(), self.stats
        status['clients'] = overview.clients(present)
        status['sent'], status['received'] = overview.traffic(present, stats.sent, stats.received)
        status['sizes'] = self.backend.sizes.as_dict()
        status['hot'] = self.backend.hot.as_dict()
        if self.backend.hot.strangers:
            self.loop.door(self.backend.look_up)
        if self.latency is not None:
            status['latency'] = self.latency.as_dict()
        of_server = self._of_server()
        return {**status, **of_server, 'latest': {**status['latest'], **of_server.get('latest', {})}}
