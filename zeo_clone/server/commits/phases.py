r"""The phases of a session's transaction.  What a phase may not touch, it does not have.

    Idle -> Begun [-> Syncing] -> Waiting -> Replaying -> Voted [-> Finishing] -> Idle
              |          |           |           |  \-> Resolving -> Replaying
              |          |           |           v
              +----------+-----------+------> Doomed -> Idle

In: what the client asks for, and the grant of the commit lock.  Out: moves of the `Transactor`, results
for the client, `Deferred` ones for votes.  A method that a phase does not override is not possible in it
and raises `StorageTransactionError`.  Every phase can `abort`, however the session ends (C16), and then
releases all it has.  Loop thread only; no bytes here.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ZODB.POSException import StorageTransactionError

from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.backend.hot import class_name
from zeo_clone.server.commits.operations import Operations
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Meta, NothingCommitted, Operation
from zeo_clone.steps import take_steps

if TYPE_CHECKING:
    from zeo_clone.server.commits.transactor import Transactor

#: Operations carried out before other clients get a turn: about a millisecond.
OPERATIONS_PER_TURN = 100


class Phase:
    """What is possible in a phase; here: nothing."""

    def __init__(self, owner: Transactor) -> None:
        self.owner = owner

    def __repr__(self) -> str:
        return f'<{type(self).__name__}>'

    #: Is the transaction one that nothing can abort any more, or none at all?
    is_over = False
    #: Settled when it has been aborted; None: that is done.
    ending: Deferred | None = None

    @property
    def name(self) -> str:
        """What people call the phase."""
        return type(self).__name__.lower()

    def _impossible(self, what: str) -> StorageTransactionError:
        return StorageTransactionError(f'{what} is not possible: the transaction is {self.name}')

    def begin(self, meta: Meta) -> None:
        """Start a transaction."""
        raise self._impossible('tpc_begin')

    def add(self, operation: Operation) -> None:
        """Keep an operation for the vote."""
        raise self._impossible(operation.verb)

    def start_blob(self) -> None:
        """A blob begins."""
        raise self._impossible('storeBlobStart')

    def write_blob(self, chunk: bytes) -> None:
        """More of the blob."""
        raise self._impossible('storeBlobChunk')

    def end_blob(self, operation: Operation) -> None:
        """The blob is whole and belongs to `operation`."""
        raise self._impossible('storeBlobEnd')

    def share_blob(self, operation: Operation) -> None:
        """The client has written the blob itself, to a file named in `operation`."""
        raise self._impossible('storeBlobShared')

    def vote(self) -> Deferred:
        """Queue for the commit lock, then bring the operations into the storage."""
        raise self._impossible('vote')

    def finish(self) -> bytes | Deferred:
        """Commit; the tid, perhaps later.  Raises `NothingCommitted`, `CommitOutcomeUnknown`."""
        raise NothingCommitted(self._impossible('tpc_finish'))

    def granted(self) -> None:
        """The commit lock is ours."""
        raise self._impossible('a grant of the commit lock')

    def doom(self, error: Exception) -> None:
        """It can only fail, with `error`."""
        raise self._impossible('a failure')

    def refuse(self, error: Exception) -> bool:
        """Fail with `error` what the client waits for, if it is the storage that takes its time."""
        return False

    def abort(self) -> None:
        """Release everything; idle afterwards.  Never raises."""
        raise NotImplementedError

    def _clean_up(self, *steps: Callable[[], object]) -> None:
        take_steps(f'the end of a transaction of {self.owner.client.name}', *steps)


class Idle(Phase):
    """There is no transaction."""

    is_over = True

    def begin(self, meta: Meta) -> None:
        self.owner.move(Begun(self.owner, meta, self.owner.new_operations()))

    def abort(self) -> None:
        pass


class Buffering(Phase):
    """Operations are kept for the vote."""

    operations: Operations

    def add(self, operation: Operation) -> None:
        try:  # as `_failing_later`, but this happens for each object
            self.operations.append(operation)
        except Exception as error:
            self.doom(error)

    def start_blob(self) -> None:
        with self._failing_later():
            self.operations.uploads.start()

    def write_blob(self, chunk: bytes) -> None:
        try:  # likewise, for each part
            self.operations.write_blob(chunk)
        except Exception as error:
            self.doom(error)

    def end_blob(self, operation: Operation) -> None:
        with self._failing_later():
            path = self.operations.uploads.end()
            self.operations.append(operation._replace(extra=path))

    def share_blob(self, operation: Operation) -> None:
        with self._failing_later():
            assert operation.oid is not None
            path = self.operations.uploads.take_shared(operation.oid, operation.extra)
            self.operations.append(operation._replace(extra=path))

    @contextlib.contextmanager
    def _failing_later(self) -> Iterator[None]:
        """A failure within is told at the vote."""
        try:
            yield
        except Exception as error:
            self.doom(error)

    def doom(self, error: Exception) -> None:
        self.abort()
        self.owner.move(Doomed(self.owner, error))


class Begun(Buffering):
    """The storage knows nothing yet."""

    def __init__(self, owner: Transactor, meta: Meta, operations: Operations) -> None:
        super().__init__(owner)
        self.meta = meta
        self.operations = operations

    def vote(self) -> Deferred:
        reply = Deferred()
        next_phase = Waiting if self.operations.uploads.on_disk else Syncing
        waiting = next_phase(self.owner, self.meta, self.operations, reply)
        self.owner.move(waiting)
        waiting.request()
        return reply

    def abort(self) -> None:
        self.owner.move(self.owner.idle)
        self._clean_up(self.operations.close)


class Syncing(Phase):
    """The client has voted; its blobs are being brought to the disk.  Others can commit meanwhile (B9)."""

    def __init__(self, owner: Transactor, meta: Meta, operations: Operations, reply: Deferred) -> None:
        super().__init__(owner)
        self.meta = meta
        self.operations = operations
        self.reply = reply

    def request(self) -> None:
        """Wait for the disk, then for the commit lock."""
        self.operations.uploads.when_on_disk().when_settled(self._synced)

    def _synced(self, _: object, error: BaseException | None) -> None:
        if self.owner.phase is not self:
            return  # aborted meanwhile
        if isinstance(error, Exception):
            self.owner.move(Doomed(self.owner, error))
            self._clean_up(self.operations.close, partial(self.owner.note_failure, error),
                           partial(self.reply.fail, error))
            return
        waiting = Waiting(self.owner, self.meta, self.operations, self.reply)
        self.owner.move(waiting)
        waiting.request()

    def abort(self) -> None:
        self.owner.move(self.owner.idle)
        error = StorageTransactionError('aborted while its blobs were brought to the disk')
        self._clean_up(self.operations.close, partial(self.reply.fail, error))


class Waiting(Phase):
    """The client has voted and waits for the commit lock."""

    def __init__(self, owner: Transactor, meta: Meta, operations: Operations, reply: Deferred) -> None:
        super().__init__(owner)
        self.meta = meta
        self.operations = operations
        self.reply = reply

    def request(self) -> None:
        """Queue; goes on at once if the lock is free."""
        if self.owner.served.lock.request(self.owner):
            self.granted()

    def granted(self) -> None:
        owner = self.owner
        try:
            commit = owner.served.new_commit(owner.client, self.meta)
        except Exception as error:
            self._give_up(error)
            return
        if owner.phase is not self:
            return  # sent away by what came from elsewhere, and aborted
        if owner.served.is_distant:
            owner.served.replay(owner, self.meta, commit, self.operations, self.reply)
            return
        try:
            commit.begin()
        except Exception as error:
            owner.served.abort(commit)  # it may have begun half
            self._give_up(error)
            return
        replaying = Replaying(owner, self.meta, commit, self.operations, self.reply)
        owner.move(replaying)
        replaying.step()

    def _give_up(self, error: Exception) -> None:
        self.owner.served.lock.release(self.owner)
        self.owner.move(Doomed(self.owner, error))
        self._clean_up(partial(self.owner.note_failure, error), self.operations.close,
                       partial(self.reply.fail, error))

    def abort(self) -> None:
        self.owner.served.lock.release(self.owner)
        self.owner.move(self.owner.idle)
        error = StorageTransactionError('aborted while it waited for the commit lock')
        self._clean_up(self.operations.close, partial(self.reply.fail, error))


class _InStorage(Phase):
    """The commit lock is held and the storage is in the transaction."""

    def __init__(self, owner: Transactor, meta: Meta, commit: StorageCommit) -> None:
        super().__init__(owner)
        self.meta = meta
        self.commit = commit

    def abort(self) -> None:
        owner = self.owner
        owner.served.lock.release(owner)  # through the door: nobody else begins before this has ended
        owner.move(owner.idle)
        owner.served.abort(self.commit)


class Replaying(_InStorage):
    """The operations go into the storage, some per turn of the loop."""

    def __init__(self, owner: Transactor, meta: Meta, commit: StorageCommit, operations: Operations,
                 reply: Deferred) -> None:
        super().__init__(owner, meta, commit)
        self.operations = operations
        self.reply = reply
        self._rest: Iterator[Operation] = iter(operations)
        commit.uploads_on_disk = operations.uploads.on_disk

    def step(self) -> None:
        """Some operations, then the rest later; after the last one the storage's vote."""
        if self.owner.phase is not self:
            return  # aborted meanwhile
        try:
            if not self.commit.carry_out(self._rest, OPERATIONS_PER_TURN):
                self.owner.loop.door(self.step)
                return
            conflicts = list(self.commit.conflicts.values())
            sync = None
            if not conflicts:
                self.commit.vote()
                sync = self.commit.plan_syncs()
        except Exception as error:
            self._fail(error)
            return
        self._clean_up(self.operations.close)
        if conflicts:
            for conflict in conflicts:
                self.owner.served.stats.count_conflict(class_name(conflict['data']))
            self.owner.served.when_on_disk(partial(self._resolve, conflicts))  # it will ask for what it met
        elif sync is not None:
            self._sync(sync)
        else:
            self._voted()

    def _sync(self, sync: Callable[[], None]) -> None:
        try:
            syncing = self.owner.client.run_sync(sync)
        except Exception as error:
            self._fail(error)
        else:
            syncing.when_settled(self._synced)

    def _synced(self, _: object, error: BaseException | None) -> None:
        """The files of blobs have their names, on the disk (B11)."""
        if self.owner.phase is not self:
            return  # aborted meanwhile
        if isinstance(error, Exception):
            self._fail(error)
        else:
            self.commit.synced()
            self._voted()

    def _voted(self) -> None:
        try:
            result = self.owner.client.report_vote(self.commit)
        except Exception as error:
            self._fail(error)
            return
        self.owner.served.stats.conflicts_resolved += len(self.commit.resolved)
        self._go_on(Voted(self.owner, self.meta, self.commit), result)

    def _resolve(self, conflicts: list[dict[str, Any]]) -> None:
        if self.owner.phase is self:  # and was not aborted meanwhile
            self._go_on(Resolving(self.owner, self.meta, self.commit), conflicts)

    def _go_on(self, phase: _InStorage, result: object) -> None:
        self.owner.move(phase)
        self._clean_up(partial(self.reply.succeed, result))

    def _fail(self, error: Exception) -> None:
        reply, owner = self.reply, self.owner
        self.reply = Deferred()
        self.abort()
        owner.move(Doomed(owner, error))
        self._clean_up(partial(owner.note_failure, error))
        # Who met a transaction that nobody sees yet would meet it again, at once, in each try until then.
        owner.served.when_on_disk(partial(self._clean_up, partial(self._tell_failure, error, reply),
                                          partial(reply.fail, error)))

    def _tell_failure(self, error: Exception, reply: Deferred) -> None:
        if self.owner.client.report_failed_store(self.commit, error):
            reply.succeed(None)

    def abort(self) -> None:
        super().abort()
        error = StorageTransactionError('aborted during the vote')
        self._clean_up(self.operations.close, partial(self.reply.fail, error))


class Resolving(_InStorage, Buffering):
    """The client resolves conflicts: it sends records again and votes again, while the lock is held."""

    def __init__(self, owner: Transactor, meta: Meta, commit: StorageCommit) -> None:
        super().__init__(owner, meta, commit)
        self.operations = owner.new_operations()

    def vote(self) -> Deferred:
        reply = Deferred()
        replaying = Replaying(self.owner, self.meta, self.commit, self.operations, reply)
        self.owner.move(replaying)
        replaying.step()
        return reply  # which is not the phase's any more if that has failed

    def abort(self) -> None:
        super().abort()
        self._clean_up(self.operations.close)


class Voted(_InStorage):
    """The storage has voted; nothing but a broken disk should go wrong any more."""

    def finish(self) -> bytes | Deferred:
        owner, commit = self.owner, self.commit
        after: Phase = Finishing(owner) if owner.served.shares_syncs else owner.idle
        try:
            tid = owner.served.finish(commit)
        except BaseException:
            after = owner.idle
            raise
        finally:
            owner.served.lock.release(owner)  # through the door, as above
            owner.move(after)
        try:
            answer = owner.served.committed(tid, list(commit.written), owner.client)
        except BaseException:
            owner.over(after)
            raise
        if not isinstance(answer, Deferred):
            owner.over(after)
        return answer


class Finishing(Phase):
    """The storage has committed, and others have the commit lock; the transaction is not on the disk yet."""

    is_over = True

    def finish(self) -> bytes | Deferred:
        raise self._impossible('tpc_finish')  # which has been done

    def abort(self) -> None:
        pass  # nothing can; it is over when it is on the disk


class Doomed(Phase):
    """The transaction can only be aborted; the client learns why when it votes."""

    def __init__(self, owner: Transactor, error: Exception) -> None:
        super().__init__(owner)
        self._error = error

    def add(self, operation: Operation) -> None:
        pass

    def doom(self, error: Exception) -> None:
        pass

    def start_blob(self) -> None:
        pass

    def write_blob(self, chunk: bytes) -> None:
        pass

    def end_blob(self, operation: Operation) -> None:
        pass

    def share_blob(self, operation: Operation) -> None:
        pass

    def vote(self) -> Deferred:
        reply = Deferred()
        reply.fail(self._error)
        return reply

    def finish(self) -> bytes:
        raise NothingCommitted(self._error)

    def abort(self) -> None:
        self.owner.move(self.owner.idle)
