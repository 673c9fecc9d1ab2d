r"""The phases of a transaction in a storage that may let one wait, a database say: each of its steps happens
in a thread, and takes its time.

    Waiting -> Replaying -> Voted -> Finishing -> Idle
                |  ^   |      |
                v  |   +------+-> Ending -> Idle, or Doomed
              Resolving ------+

In: the results of the steps, as `Deferred`s of the commit; what the client asks for meanwhile.  Out: as in
`phases`.  A step that is in its thread goes to its end: an abort is noted, and carried out then; so long the
commit lock is held.  ``tpc_finish``, once it is asked for, goes to its end whatever becomes of the client.
Loop thread only.
"""
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ZODB.POSException import StorageTransactionError

from zeo_clone.server.backend.hot import class_name
from zeo_clone.server.commits.operations import Operations
from zeo_clone.server.commits.phases import Buffering, Doomed, Finishing, Phase
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Meta

if TYPE_CHECKING:
    from zeo_clone.server.commits.transactor import Transactor


class DistantCommit(Protocol):
    """A transaction whose steps are carried out elsewhere."""

    resolved: list[bytes]
    conflicts: dict[bytes, dict[str, Any]]  # for the client to resolve

    def replay(self, operations: Any) -> Deferred:
        """Begin, carry out, vote."""

    def conclude(self, free: Any) -> Deferred:
        """Finish; the tid."""

    def give_up(self) -> Deferred:
        """Abort.  Never fails."""


class Replaying(Phase):
    """The operations are carried out, and the storage votes."""

    def __init__(self, owner: Transactor, meta: Meta, commit: Any, operations: Operations,
                 reply: Deferred) -> None:
        super().__init__(owner)
        self.meta = meta
        self.commit = commit
        self.operations = operations
        self.reply = reply
        self._ending: Ending | None = None

    def start(self) -> None:
        """Go on without us."""
        try:
            replaying = self.commit.replay(iter(self.operations))
        except Exception as error:
            self._replayed(None, error)
        else:
            replaying.when_settled(self._replayed)

    def _replayed(self, _: object, error: BaseException | None) -> None:
        owner = self.owner
        self._clean_up(self.operations.close)
        if self._ending is not None:
            self._ending.begin_to_end(give_up=error is None)
            return
        if isinstance(error, Exception):
            self._fail(error)
            return
        conflicts = list(self.commit.conflicts.values())
        if conflicts:
            for conflict in conflicts:
                owner.served.stats.count_conflict(class_name(conflict['data']))
            owner.move(Resolving(owner, self.meta, self.commit))
            self._clean_up(partial(self.reply.succeed, conflicts))
            return
        try:
            result = owner.client.report_vote(self.commit)
        except Exception as told:
            ending = Ending(owner, self.commit, then=Doomed(owner, told))
            owner.move(ending)
            ending.begin_to_end(give_up=True)
            self._clean_up(partial(self.reply.fail, told))
            return
        owner.served.stats.conflicts_resolved += len(self.commit.resolved)
        owner.move(Voted(owner, self.meta, self.commit))
        self._clean_up(partial(self.reply.succeed, result))

    def _fail(self, error: Exception) -> None:
        owner = self.owner
        owner.served.lock.release(owner)
        owner.move(Doomed(owner, error))
        self._clean_up(partial(owner.note_failure, error), partial(self._tell_failure, error),
                       partial(self.reply.fail, error))

    def _tell_failure(self, error: Exception) -> None:
        if self.owner.client.report_failed_store(self.commit, error):
            self.reply.succeed(None)

    def refuse(self, error: Exception) -> bool:
        self._end(Doomed(self.owner, error), error)
        return True

    def abort(self) -> None:
        self._end(self.owner.idle, StorageTransactionError('aborted during the vote'))

    def _end(self, then: Phase, error: Exception) -> None:
        self._ending = Ending(self.owner, self.commit, then)
        self.owner.move(self._ending)
        self._clean_up(partial(self.reply.fail, error))


class Resolving(Buffering):
    """The client resolves conflicts: it sends records again and votes again, while the lock is held."""

    def __init__(self, owner: Transactor, meta: Meta, commit: Any) -> None:
        super().__init__(owner)
        self.meta = meta
        self.commit = commit
        self.operations = owner.new_operations()

    def vote(self) -> Deferred:
        replaying = Replaying(self.owner, self.meta, self.commit, self.operations, Deferred())
        self.owner.move(replaying)
        replaying.start()
        return replaying.reply

    def doom(self, error: Exception) -> None:
        self._end(Doomed(self.owner, error))

    def abort(self) -> None:
        self._end(self.owner.idle)

    def _end(self, then: Phase) -> None:
        ending = Ending(self.owner, self.commit, then)
        self.owner.move(ending)
        ending.begin_to_end(give_up=True)
        self._clean_up(self.operations.close)


class Voted(Phase):
    """The storage has voted."""

    def __init__(self, owner: Transactor, meta: Meta, commit: Any) -> None:
        super().__init__(owner)
        self.meta = meta
        self.commit = commit

    def finish(self) -> Deferred:
        owner = self.owner
        owner.move(Finishing(owner))
        concluded: Deferred = self.commit.conclude(partial(owner.served.lock.release, owner))
        return concluded

    def abort(self) -> None:
        ending = Ending(self.owner, self.commit, then=self.owner.idle)
        self.owner.move(ending)
        ending.begin_to_end(give_up=True)


class Ending(Phase):
    """It is being aborted; `done` is settled then, and the commit lock free.  `then` comes after that."""

    is_over = True

    def __init__(self, owner: Transactor, commit: Any, then: Phase) -> None:
        super().__init__(owner)
        self._commit = commit
        self._then = then
        self._done = self.ending = Deferred()

    def begin_to_end(self, give_up: bool) -> None:
        """No step is under way any more."""
        if not give_up:
            self._ended()
            return
        try:
            giving_up = self._commit.give_up()
        except Exception as error:
            self._ended(None, error)
        else:
            giving_up.when_settled(self._ended)

    def _ended(self, *_: object) -> None:
        owner = self.owner
        owner.served.lock.release(owner)
        if owner.phase is self:
            owner.move(self._then)
        self._done.succeed(None)

    def abort(self) -> None:
        self._then = self.owner.idle
