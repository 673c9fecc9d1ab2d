"""What a client asks of its cache: `zeo_clone.interfaces.IClientCache`, for type checkers.

An application may give one of its own.  Two more are used where they are: ``database``, and ``forsake()``
in a process that was forked.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Cache(Protocol):
    """A bounded local store of object revisions."""

    @property
    def late(self) -> bool:
        """Whether `write_late` has anything to do."""

    def loadBefore(self, oid: bytes, before_tid: bytes, /) -> tuple[bytes, bytes, bytes | None] | None:
        """The revision valid just before `before_tid`, or None."""

    def store(self, oid: bytes, start_tid: bytes, end_tid: bytes | None, data: bytes, /) -> None:
        """Keep a revision."""

    def invalidate(self, oid: bytes, tid: bytes | None, /) -> None:
        """The current revision of `oid` ends at `tid`; None: it is dropped."""

    def invalidateTransaction(self, tid: bytes, oids: Iterable[bytes], /) -> None:
        """`invalidate` all of `oids`, at once for readers."""

    def applyCommit(self, tid: bytes, records: Iterable[tuple[bytes, bytes | None]], /) -> None:
        """An own commit."""

    def write_late(self) -> None:
        """Do the work that `applyCommit` has left."""

    def getLastTid(self) -> bytes:
        """The last transaction whose effects are in the cache."""

    def setLastTid(self, tid: bytes, /) -> None:
        """Move the last tid forward."""

    def contents(self) -> Iterator[tuple[bytes, bytes, bytes | None]]:
        """``(oid, start_tid, end_tid or None)`` of all revisions."""

    def clear(self) -> None:
        """Forget all revisions and set the last tid to zero."""

    def stats(self) -> dict[str, Any]:
        """Numbers since the start."""

    def close(self) -> None:
        """Write what has to be written and release the file."""

    def __len__(self) -> int:
        """The number of revisions."""
