"""A database with other servers in front of it, as it is served: joins its backend, commit lock and audience.

In and out: as in `served`.  Transactions of all servers, ours among them, are told when the feed tells of
them.
Loop thread only, apart from `status`.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.backend.database.backend import DatabaseBackend, Tuning
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.commits.distant import Replaying
from zeo_clone.server.commits.outcomes import COMMITTED, NOT_COMMITTED, UNKNOWN
from zeo_clone.server.deferred import Deferred, settle_with
from zeo_clone.server.served import ServedStorage
from zeo_clone.server.vocabulary import Meta
from zeo_clone.steps import take_steps


class ServedDatabase(ServedStorage):
    """A RelStorage on PostgreSQL; `tuning`: what concerns databases."""

    is_distant = True
    takes_z4 = False
    backend: Any  # a DatabaseBackend

    def __init__(self, *args: Any, tuning: Tuning, timeout_s: float | None, **keywords: Any) -> None:
        self._tuning = tuning
        self.commits_at_once = tuning.commit_connections
        self._timeout_s = timeout_s
        super().__init__(*args, timeout_s=timeout_s, **keywords)
        self.instance = self.backend.database
        self.backend.listen(self._told, self._lost_track)

    def _make_backend(self, storage: Any, guard: Guard) -> Any:
        if self._by_clients:
            raise ValueError('conflicts in a database are resolved by the server: remove '
                             'client-conflict-resolution, or set it to false')
        return DatabaseBackend(self.loop, self.name, storage, guard, self.stats, self._tuning,
                               self._timeout_s)

    # ---- what is told -----------------------------------------------------------------------------

    def _told(self, tid: bytes, oids: list[bytes], own: Any) -> None:
        if own is None:
            self.audience.publish(tid, oids, None)
            return
        take_steps(f'after a commit in storage {self.name!r}', partial(self._tell, tid, oids, own.client),
                   partial(own.told, tid))

    def _lost_track(self) -> None:
        self.instance = self.backend.database  # it may be another one
        self.audience.lost_track()

    def when_fresh(self, function: Callable[[], Any]) -> Deferred:
        """What `function` returns, when all has been told that is committed by now."""
        answer = Deferred()
        self.backend.when_fresh().when_settled(partial(self._fresh, function, answer))
        return answer

    def _fresh(self, function: Callable[[], Any], answer: Deferred, _: object,
               error: BaseException | None) -> None:
        if error is not None:
            answer.fail(error)
        else:
            settle_with(self.loop, answer, function)

    def load_batch(self, oids: list[bytes], tid: bytes) -> Deferred:
        """The revisions of `oids` before `tid`."""
        batch: Deferred = self.backend.load_batch(oids, tid)
        return batch

    # ---- commits ----------------------------------------------------------------------------------

    def new_commit(self, client: Any, meta: Meta) -> StorageCommit:
        """A commit of `client`, which holds the lock."""
        commit: StorageCommit = self.backend.new_commit(meta, client.token, client)
        return commit

    def replay(self, owner: Any, meta: Meta, commit: Any, operations: Any, reply: Deferred) -> None:
        """Carry out the operations and vote."""
        replaying = Replaying(owner, meta, commit, operations, reply)
        owner.move(replaying)
        replaying.start()

    def commit_outcome(self, token: bytes, number: int) -> Deferred:
        """What became of transaction `number` of the client `token`, whichever server had it."""
        answer = Deferred()
        if self.outcomes.refused(token, number):  # a database that is full, say, could not be asked
            answer.succeed((NOT_COMMITTED, None))
            return answer
        self.backend.outcome(token, number).when_settled(partial(self._found, number, answer))
        return answer

    def _found(self, number: int, answer: Deferred, found: Any, error: BaseException | None) -> None:
        if error is not None:
            answer.fail(error)
        elif found.number == number:
            # The client goes on from there: it is told of all up to it first.
            self.when_fresh(lambda: (COMMITTED, found.tid)).when_settled(answer.settle)
        else:
            answer.succeed((NOT_COMMITTED if number > found.number else UNKNOWN, None))

    # ---- the end, and the status --------------------------------------------------------------------

    def close(self, timeout_s: float) -> None:
        """At the end: what is in a thread gets to its end there."""
        self.backend.close()

    def status(self) -> dict[str, Any]:
        """The dict of ``server_status``."""
        return {**super().status(), 'database': self.backend.status()}
