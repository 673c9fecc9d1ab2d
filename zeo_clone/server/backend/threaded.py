"""A transaction whose steps are carried out in a thread, one after the other, while the loop goes on.

In: operations, word to finish or to abort.  Out: `Deferred`s.  What the steps do, subclasses say; there is
at most one under way.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Operation
from zeo_clone.steps import take_steps

#: Operations that are in memory at once, of those that are kept in a file.
SOME = 100


class ThreadedCommit(StorageCommit):
    """One transaction; its arguments are those of a `StorageCommit`."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._free: Callable[[], object] = nothing

    # ---- loop thread ------------------------------------------------------------------------------

    def replay(self, operations: Iterator[Operation]) -> Deferred:
        """Begin, carry out all `operations`, and vote."""
        return self._run(partial(self._replay, operations))

    def give_up(self) -> Deferred:
        """Abort; never fails."""
        return self._run(self._give_up)

    def conclude(self, free: Callable[[], object]) -> Deferred:
        """Finish: the tid, when it has been told; `free` is called when the next transaction can begin.

        Fails with `NothingCommitted` or `CommitOutcomeUnknown`.
        """
        raise NotImplementedError

    def _run(self, function: Callable[[], Any]) -> Deferred:
        raise NotImplementedError

    def _let_go(self) -> None:
        free, self._free = self._free, nothing
        take_steps('the end of a commit', free)

    # ---- a thread ---------------------------------------------------------------------------------

    def _replay(self, operations: Iterator[Operation]) -> None:
        raise NotImplementedError

    def _give_up(self) -> None:
        raise NotImplementedError

    def _carry_out_all(self, operations: Iterator[Operation]) -> None:
        while not self.carry_out(operations, SOME):
            pass


def nothing(*_: object) -> None:
    """Does nothing."""
