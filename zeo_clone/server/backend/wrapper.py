"""What the server registers with each storage: the database that a storage believes to have
(``registerDB``).

In: calls of the storage, in any thread: which references records hold, and, from a storage that has a server
of its own (fan-out), what other clients of that server changed.  Out: the same, handed on to the served
storage, in order.

Whatever a storage unpickles to resolve a conflict it asks for here first; the `Guard` answers (S9).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ZODB.interfaces import IStorageWrapper
from zope.interface import implementer

from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.references import references


@implementer(IStorageWrapper)
class StorageWrapper:
    """`on_invalidate(tid, oids)` and `on_reset()` are called in whatever thread the storage uses."""

    def __init__(self, guard: Guard, on_invalidate: Callable[[bytes, list[bytes]], object],
                 on_reset: Callable[[], object]) -> None:
        self._guard = guard
        self._on_invalidate = on_invalidate
        self._on_reset = on_reset

    def transform_record_data(self, data: bytes) -> bytes:
        """How a record is stored: as it is, and a resolved one without its envelope."""
        return self._guard.unwrap(data)

    def untransform_record_data(self, data: bytes) -> bytes:
        """What may be read instead of a record."""
        return self._guard.wrap(data)

    def references(self, record: bytes, oids: list[bytes] | None = None) -> list[bytes]:
        """The oids that `record` refers to.  Raises `UnreadableRecord` (S10)."""
        return references(record, oids)

    def invalidate(self, tid: bytes, oids: Any, version: str = '') -> None:
        """Another server's transaction `tid` changed `oids`."""
        self._on_invalidate(tid, list(oids))

    def invalidateCache(self) -> None:
        """Anything may have changed."""
        self._on_reset()
