"""Storages whose calls must not keep the loop waiting, as they are served: what others did, and what our own
commits did, told in one order.

In and out: as in `served`.  What the storage says that others did comes in any thread, through the door.
While a ``tpc_finish`` is under way it waits, for the end of that may be an earlier transaction, of which the
reply and the invalidations go out first; a client that heard of a later one before its reply would have to
take its tid for nonsense.

    the storage     others: 5   our finish: 4 or 7?   others: 6      the finish returns 4
    told                        (5 and 6 wait)                       4 with its reply, 5, 6

A storage that says that anything may have changed is asked where it is now, and one with a server of its own
(`relay`) what it has missed without it; so long nobody is told anything.

Loop thread only, apart from the methods under the banner "any thread", and `status`.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from zeo_clone.server.audience.verification import Asker
from zeo_clone.server.backend.aside.backend import AsideBackend
from zeo_clone.server.backend.aside.commit import AsideCommit
from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.commits.distant import Replaying
from zeo_clone.server.deferred import Deferred, settle_with
from zeo_clone.server.served import ServedStorage
from zeo_clone.server.vocabulary import Meta
from zeo_clone.steps import take_steps

#: A storage that cannot say where it is, is asked again after so many seconds.
ASK_AGAIN_S = 1.0


class Occurrence(NamedTuple):
    """Something that happened, up to `tid`, and what tells it: ``tell(tid, oids)``; of a transaction of ours,
    its `commit`.  Not `exact`: there may be transactions before `tid` that were not told."""

    tid: bytes
    oids: list[bytes]
    tell: Callable[[bytes, list[bytes]], object]
    commit: AsideCommit | None = None
    exact: bool = True


class ServedAside(ServedStorage):
    """A storage of which nobody knows how quick it is."""

    is_distant = True
    backend: Any  # an AsideBackend

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self._finishing = False  # a tpc_finish is under way
        self._asking = False  # the storage is asked what has happened
        self._occurred: deque[Occurrence] = deque()  # what waits for the end of these, in the order of tids
        self._inside: list[Occurrence] = []  # commits of ours among transactions that are not known
        self._asked: deque[tuple[Callable[[], Any], Deferred]] = deque()  # questions that wait as well
        super().__init__(*args, **keywords)

    def _make_backend(self, storage: Any, guard: Guard) -> Any:
        return AsideBackend(self.loop, self.name, storage, guard, self.stats)

    def _listen(self) -> None:
        self.backend.listen(self)
        self.backend.start(self.heard, self.lost_track)
        self._look_where()

    def _look_where(self) -> None:
        """Something may have happened before this was told of it."""
        tid = self.backend.last_transaction()
        if tid != self.audience.history.last_tid:
            self.audience.start_over(tid)

    # ---- any thread: what others do -------------------------------------------------------------------

    def heard(self, tid: bytes, oids: list[bytes]) -> None:
        """Somebody else's transaction `tid` changed `oids`."""
        self.loop.door(partial(self._happened, Occurrence(tid, oids, self._tell_others)))

    def lost_track(self) -> None:
        """Anything may have changed."""
        self.loop.door(partial(self._happened, Occurrence(b'', [], self._tell_lost, exact=False)))

    # ---- in order -----------------------------------------------------------------------------------

    def _happened(self, what: Occurrence) -> None:
        self._occurred.append(what)
        self._go_on()

    def ending(self) -> bytes:
        """A ``tpc_finish`` begins; the last transaction that was told."""
        self._finishing = True
        return self.audience.history.last_tid

    def ended(self, commit: AsideCommit, tid: bytes | None) -> None:
        """It has; None: it is not known, or nothing was committed."""
        self._finishing = False
        if tid is not None:
            self.stats.commits += 1
            own = Occurrence(tid, list(commit.written), partial(self._tell_own, commit), commit)
            before = len(self._occurred)
            place = next((place for place, one in enumerate(self._occurred) if one.tid >= tid), before)
            self._occurred.insert(place, own)
        self._go_on()

    @property
    def _holds(self) -> bool:
        return self._finishing or self._asking

    def _go_on(self) -> None:
        """Tell what there is to tell, as far as that is possible."""
        while self._occurred and not self._holds:
            now = self._occurred.popleft()
            if now.commit is not None and not all(one.exact for one in self._occurred):
                self._inside.append(now)  # who was told of it would not know of what was before
            else:
                take_steps(f'telling of storage {self.name!r}', partial(now.tell, now.tid, now.oids))
        while self._asked and not self._holds:
            function, answer = self._asked.popleft()
            settle_with(self.loop, answer, function)

    def _tell_others(self, tid: bytes, oids: list[bytes]) -> None:
        self.backend.changed(tid, oids)
        self.audience.publish(tid, oids, None)

    def _tell_own(self, commit: AsideCommit, tid: bytes, oids: list[bytes]) -> None:
        # Nothing of this can undo what is committed: the committer gets its tid whatever happens here.
        take_steps(f'after a commit in storage {self.name!r}', partial(self.backend.changed, tid, oids),
                   partial(self.audience.publish, tid, oids, commit.client),
                   partial(self._tell_info, commit.client), partial(commit.told, tid), self.backend.look)

    def _told_inside(self) -> None:
        """All clients have been sent away, and will ask; so will who has committed meanwhile."""
        inside, self._inside = self._inside, []
        for one in inside:
            if one.commit is not None:
                one.commit.told(one.tid)

    def _tell_lost(self, tid: bytes, oids: list[bytes]) -> None:
        """Everybody has to look anew, as soon as it is known where the storage is."""
        self._asking = True
        self.audience.start_over(self.audience.history.last_tid)
        self._find_out()

    def _find_out(self) -> None:
        self.backend.ask(self.backend.last_transaction).when_settled(self._found_out)

    def _found_out(self, tid: Any, error: BaseException | None) -> None:
        if error is not None:
            self.loop.call_later(ASK_AGAIN_S, self._find_out)
            return
        self._inside += [one for one in self._occurred if one.commit is not None and one.tid <= tid]
        self._occurred = deque(one for one in self._occurred if one.tid > tid or not one.exact)
        self._asking = False
        self._start_over(tid)
        self._go_on()

    def _start_over(self, tid: bytes) -> None:
        self.audience.start_over(tid)
        self._told_inside()

    # ---- questions --------------------------------------------------------------------------------

    def _when_told(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, now or when all is told that has happened."""
        if not self._holds:
            return function()
        answer = Deferred()
        self._asked.append((function, answer))
        return answer

    def when_fresh(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, when it is known where the storage is."""
        return self._when_told(function) if self._asking else function()

    def when_on_disk(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, now or when the ``tpc_finish`` under way has ended."""
        return self._when_told(function)

    # ---- commits ----------------------------------------------------------------------------------

    def new_commit(self, client: Any, meta: Meta) -> StorageCommit:
        """A commit of `client`, which holds the lock."""
        early: bool = client.wants_early_tid
        commit: StorageCommit = self.backend.new_commit_of(
            client, meta, self.audience.history.last_tid, early, self._by_clients and not early)
        return commit

    def replay(self, owner: Any, meta: Meta, commit: Any, operations: Any, reply: Deferred) -> None:
        """Carry out the operations and vote."""
        commit.uploads_on_disk = operations.uploads.on_disk
        replaying = Replaying(owner, meta, commit, operations, reply)
        owner.move(replaying)
        replaying.start()

    def load_batch(self, oids: list[bytes], tid: bytes) -> Deferred:
        """The revisions of `oids` before `tid`."""
        batch: Deferred = self.backend.load_batch(oids, tid)
        return batch

    # ---- the end, and the status --------------------------------------------------------------------

    def close(self, timeout_s: float) -> None:
        """At the end: what is in a thread gets to its end there."""
        self.lock.close()
        self.backend.close()

    def _packed(self, asker: Asker, done: Deferred, _: Any, error: BaseException | None) -> None:
        end = super()._packed  # it tells all how large the storage is now
        self.backend.ask_now().when_settled(lambda *_: end(asker, done, None, error))

    def _last_shown(self) -> bytes:
        """The last transaction that clients were told of.  Any thread."""
        return self.audience.history.last_tid

