"""Commits in a storage that may let one wait: each step in the thread of the storage.

    loop      vote ...                finish                told to all, in the order of tids; the reply
                 \\                     \\                      /
    thread        tpc_begin, stores,    tpc_finish, and what became of it if that fails
                  tpc_vote, syncs

In: the operations of a transaction; word to finish or to abort it.  Out: `Deferred`s; to a `Chronicler`, that
a ``tpc_finish`` begins and how it has ended.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from zeo_clone.server.backend.failure import Failures
from zeo_clone.server.backend.threaded import ThreadedCommit
from zeo_clone.server.backend.workers import Workers
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Operation


class Chronicler(Protocol):
    """Who tells of transactions in their order."""

    def ending(self) -> bytes:
        """A ``tpc_finish`` begins; the last transaction that was told."""

    def ended(self, commit: AsideCommit, tid: bytes | None) -> None:
        """It has; None: it is not known, or nothing was committed."""


class Parts:
    """What all commits of a storage share: its failures, the thread for commits, and who tells of them."""

    def __init__(self, failures: Failures, workers: Workers) -> None:
        self.failures = failures
        self.workers = workers
        self.chronicler: Chronicler | None = None  # until somebody listens


class AsideCommit(ThreadedCommit):
    """One transaction; the first argument are the `Parts`, then as of a `StorageCommit`."""

    def __init__(self, parts: Parts, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._parts = parts
        self._begun = False
        self._known = b''  # the last transaction that was told before this one was finished
        self._reply = Deferred()
        #: Who commits: is told by the reply.  Set by who asked for it.
        self.client: Any = None

    # ---- loop thread ------------------------------------------------------------------------------

    def conclude(self, free: Callable[[], object]) -> Deferred:
        """See `ThreadedCommit`."""
        assert self._parts.chronicler is not None
        self._free = free
        self._known = self._parts.chronicler.ending()
        self._run(self._conclude).when_settled(self._concluded)
        return self._reply

    def _run(self, function: Callable[[], Any]) -> Deferred:
        return self._parts.workers.run(object(), function)

    def _concluded(self, tid: Any, error: BaseException | None) -> None:
        assert self._parts.chronicler is not None
        self._let_go()
        if error is not None:
            self._reply.fail(error)
        self._parts.chronicler.ended(self, tid)

    def told(self, tid: bytes) -> None:
        """Everybody knows."""
        self._reply.succeed(tid)

    # ---- a thread ---------------------------------------------------------------------------------

    def _replay(self, operations: Iterator[Operation]) -> None:
        failures = self._parts.failures
        if failures.stuck is not None:
            failures.check()
        try:
            if not self._begun:  # else the client has resolved conflicts, and stores again
                self._begun = True
                self.begin()
            self._carry_out_all(operations)
            if not self.conflicts:
                self.vote()
                sync = self.plan_syncs()
                if sync is not None:
                    sync()
                    self.synced()
        except Exception:
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._parts.failures.abort(self)

    def _conclude(self) -> bytes:
        failures = self._parts.failures
        try:
            tid: bytes = self.finish()
        except Exception as error:
            return failures.finish_failed(self, error, lambda: self._known)
        failures.latest = None
        return tid
