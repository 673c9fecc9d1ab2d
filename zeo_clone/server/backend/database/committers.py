"""Commits in the database: each step in a thread, the order and the outcome from the database.

In: the operations of a transaction; word to finish or to abort it.  Out: `Deferred`s: of the vote when the
thread is done, of the finish when the feed has told the transaction to everybody.  In a thread everything of
one transaction happens one after the other.

    loop      vote ...            finish                          feed: the transaction is there
                 \\                     \\                            -> invalidations, then the reply
    thread        tpc_begin, ...        tid chosen, noted as ours,
                  tpc_vote              outcome written, COMMIT ----> told by the database

What fails before COMMIT is certainly not committed.  If COMMIT fails, the outcome says what happened.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from ZODB.POSException import StorageTransactionError, UndoError

from zeo_clone.Exceptions import CommitOutcomeUnknown
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.server.backend.blobfiles import BlobFiles
from zeo_clone.server.backend.database.feed import Feed
from zeo_clone.server.backend.database.outcomes import Fences
from zeo_clone.server.backend.database.reader import DatabaseAway
from zeo_clone.server.backend.database.records import Records
from zeo_clone.server.backend.database.relstorage import PACK_OR_UNDO, Database
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.threaded import ThreadedCommit, nothing
from zeo_clone.server.backend.workers import Workers
from zeo_clone.server.backend.wrapper import StorageWrapper
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Meta, NothingCommitted, Operation
from zeo_clone.steps import take_steps

log = logging.getLogger(__name__)


class Committer:
    """An instance of the storage of its own, with a guard of its own, for one transaction at a time."""

    def __init__(self, database: Database, guard: Guard, token: bytes) -> None:
        self._database = database
        self.guard = guard
        #: Under which outcomes are kept of clients that have no token.
        self.token = token
        self._instance: Any = None

    @property
    def instance(self) -> Any:
        """The storage that is committed to.  Raises what the database raises."""
        if self._instance is None:
            instance = self._database.new_instance()
            instance.registerDB(StorageWrapper(self.guard, nothing, nothing))
            self._instance = instance
        return self._instance

    def drop(self) -> None:
        """It is not good any more, or not wanted.  Never raises."""
        instance, self._instance = self._instance, None
        if instance is not None:
            take_steps('dropping an instance of the storage', instance.release)


class Committers:
    """All of a storage: as many as there may be transactions at the same time.  Loop thread only."""

    def __init__(self, database: Database, guard: Guard, tokens: Iterable[bytes]) -> None:
        self._all = [Committer(database, guard.another(), token) for token in tokens]
        self._free = self._all[::-1]

    def __repr__(self) -> str:
        return f'<Committers {len(self._free)}/{len(self._all)}>'

    def next(self) -> Committer:
        """Who can be taken: a connection that is there is used rather than one more."""
        return self._free[-1]

    def take(self, committer: Committer) -> None:
        """A transaction begins in it."""
        self._free.remove(committer)

    def give_back(self, committer: Committer) -> None:
        """That is over, or in its thread soon."""
        self._free.append(committer)

    def drop(self) -> None:
        """At the end."""
        for committer in self._all:
            committer.drop()


class DatabaseCommit(ThreadedCommit):
    """One transaction.  Its outcome is kept under `token` and `number`; without a token of the client's under
    one that nobody else uses meanwhile."""

    def __init__(self, parts: Parts, meta: Meta, token: bytes | None, number: int, client: Any) -> None:
        committer = parts.committers.next()
        super().__init__(None, parts.abilities, committer.guard, parts.files, meta, meta.tid,
                         collect_conflicts=False, keep_stores=False)
        self._committer = committer
        self._has_committer = False
        self._parts = parts
        self._database = parts.database
        self._token, self._number = token or committer.token, number
        self._deleted: list[bytes] = []
        self._undos: list[Operation] = []
        self._chosen: bytes | None = None  # its tid
        self._reply = Deferred()
        #: Who commits: is told by the reply.
        self.client = client

    # ---- loop thread ------------------------------------------------------------------------------

    def replay(self, operations: Iterator[Operation]) -> Deferred:
        """Begin, carry out all `operations`, and vote."""
        self._parts.committers.take(self._committer)
        self._has_committer = True
        answer = Deferred()
        self._run(partial(self._replay, operations)).when_settled(partial(self._replayed, answer))
        return answer

    def _replayed(self, answer: Deferred, _: object, error: BaseException | None) -> None:
        if error is not None:
            self._leave()
        answer.settle(None, error)

    def _leave(self) -> None:
        if self._has_committer:  # once only: since then it may have become somebody else's
            self._has_committer = False
            self._parts.committers.give_back(self._committer)

    def conclude(self, free: Callable[[], object]) -> Deferred:
        """See `ThreadedCommit`."""
        self._free = free
        self._run(self._conclude).when_settled(self._concluded)
        return self._reply

    def give_up(self) -> Deferred:
        """Abort; never fails."""
        answer = Deferred()
        self._run(self._give_up).when_settled(partial(self._given_up, answer))
        return answer

    def _given_up(self, answer: Deferred, *settled: Any) -> None:
        self._leave()
        answer.settle(*settled)

    def _run(self, function: Callable[[], Any]) -> Deferred:
        return self._parts.workers.run(self._committer, function)

    def _concluded(self, tid: Any, error: BaseException | None) -> None:
        self._let_go()
        if error is None:
            self._parts.feed.look_for(tid)  # that tells everybody, and then the client, if it has not yet
        else:
            if self._chosen is not None:
                self._parts.feed.forget(self._chosen)
            self._reply.fail(error)

    def told(self, tid: bytes) -> None:
        """Everybody knows."""
        self._let_go()  # the thread may not have come back yet: what is next waits for it there
        self._reply.succeed(tid)

    def _let_go(self) -> None:
        self._leave()
        super()._let_go()

    # ---- a thread ---------------------------------------------------------------------------------

    def _replay(self, operations: Iterator[Operation]) -> None:
        try:
            self._begin()
            self._carry_out_all(self._but_undos(operations))
            if self._undos:
                # After all stores, whose records RelStorage writes at the vote anyway.
                self._database.lock_for_undo(
                    self._storage, [undo.extra for undo in self._undos], self.written)
                self._carry_out_all(iter(self._undos))
            self.vote()
        except Exception as error:
            self._fail(error)

    def _but_undos(self, operations: Iterator[Operation]) -> Iterator[Operation]:
        for operation in operations:
            if operation.verb == 'undo':
                self._undos.append(operation)
                continue
            if operation.verb == 'delete' and operation.oid is not None:
                self._deleted.append(operation.oid)
            yield operation

    def _begin(self) -> None:
        storage = self._committer.instance
        self._storage, self._abilities = storage, Abilities(storage)
        self._guard.begin()
        self._database.begin(storage, self._transaction, self._parts.records.old, self._parts.hold_s)
        if self.tid is not None:
            self._database.begin_given(storage, self._transaction, self.tid, self._status)

    def _fail(self, error: Exception) -> None:
        """Nothing is committed: the nearest error that clients know."""
        if self._undos:
            error = self._database.undo_failed(self._storage, error)
        self._give_up()
        if self._database.is_away(error):
            self._committer.drop()
            raise DatabaseAway(f'{self._database.trouble(error)}, and nothing was committed; try again later '
                               f'({_line(error)})') from error
        if self._database.is_busy(error):
            raise UndoError(PACK_OR_UNDO) from error
        raise self._database.translate(error) from error

    def _give_up(self) -> None:
        if self._storage is None:
            return
        try:
            self.abort()
        except Exception as error:
            level = logging.DEBUG if self._database.is_away(error) else logging.ERROR
            log.log(level, 'a transaction could not be aborted in the database: %s', error)
            self._committer.drop()

    def _conclude(self) -> bytes:
        try:
            tid, cursor = self._database.choose_tid(self._storage)
            if not self._database.write_outcome(cursor, self._token, self._number, tid, self._deleted):
                raise StorageTransactionError(
                    'the client has asked another server what became of this transaction, and was told that '
                    'nothing was committed, or has given it up and committed another one since')
            self._chosen = tid
            self._parts.feed.expect(tid, self)
        except Exception as error:
            try:
                self._fail(error)
            except Exception as told:
                raise NothingCommitted(told) from error
        try:
            self._storage.tpc_finish(self._transaction)
        except Exception as error:
            return self._find_out(error)
        finally:
            self._guard.end()
        return tid

    def _find_out(self, error: Exception) -> bytes:
        """COMMIT has failed, or it only seems so."""
        self._committer.drop()
        log.warning('it is being found out whether a transaction was committed: %s', _line(error))
        try:
            found = self._parts.fences.fence(self._token, self._number)
        except Exception as failure:
            raise CommitOutcomeUnknown(
                f'the database failed while it committed the transaction, which may or may not be there '
                f'when it is well again. Look at the data before you repeat it ({_line(failure)})') from error
        if found.number == self._number and found.tid is not None:
            return found.tid
        away = DatabaseAway(f'the database of the server has not done the COMMIT, and nothing was committed; '
                            f'try again ({_line(error)})')
        raise NothingCommitted(away) from error


class Parts:
    """What all commits of a storage share."""

    def __init__(self, database: Database, abilities: Abilities, committers: Committers, files: BlobFiles,
                 feed: Feed, records: Records, fences: Fences, workers: Workers,
                 hold_s: float | None) -> None:
        #: A transaction may wait so long between two of its steps, in seconds; None: for ever.
        self.hold_s = hold_s
        self.database = database
        self.abilities = abilities
        self.committers = committers
        self.files = files
        self.feed = feed
        self.records = records
        self.fences = fences
        self.workers = workers


def _line(error: BaseException) -> str:
    return ' '.join(str(error).split())[:200]
