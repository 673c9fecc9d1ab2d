"""What the server registers with each storage: the database that a storage believes to have
(``registerDB``).

In: calls of the storage, in any thread: how records are written, which references they hold, and, from
a storage that has a server of its own (fan-out), what other clients of that server changed.  Out: the
same, handed on to the served storage, in order.

It also stands guard over conflict resolution (S5c): a storage asks for records here before it
unpickles them to resolve a conflict.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ZODB.interfaces import IStorageWrapper
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf
from zope.interface import implementer

from zeo_clone.server.guard import UNRESOLVABLE, check_record, is_safe


@implementer(IStorageWrapper)
class StorageWrapper:
    """`on_invalidate(tid, oids)` and `on_reset()` are called in whatever thread the storage uses.

    With `resolve` false the server resolves no conflicts: that is left to clients.
    """

    def __init__(self, get_ident: Callable[[], int],
                 on_invalidate: Callable[[bytes, list[bytes]], object], on_reset: Callable[[], object],
                 resolve: bool = True) -> None:
        self._get_ident = get_ident
        self._on_invalidate = on_invalidate
        self._on_reset = on_reset
        self._resolve = resolve
        self._committing: int | None = None  # the thread that carries out operations of a commit
        self._undoing = False

    # ---- loop thread ------------------------------------------------------------------------------

    def start_committing(self) -> None:
        """From now on records that this thread asks for are those of a conflict."""
        self._committing = self._get_ident()

    def stop_committing(self) -> None:
        """No longer."""
        self._committing = None

    @contextlib.contextmanager
    def undoing(self) -> Iterator[None]:
        """While the block runs, of an operation that is being carried out, that is an undo."""
        self._undoing = True
        try:
            yield
        finally:
            self._undoing = False

    # ---- any thread: what a storage calls ---------------------------------------------------------

    def transform_record_data(self, data: bytes) -> bytes:
        """How a record is stored: as it is."""
        return data

    def untransform_record_data(self, data: bytes) -> bytes:
        """A record as it came; for conflict resolution only if that is safe, and wanted here.

        Raises `ConflictError` for a record in a conflict that stays one.  During an undo a storage asks
        for other reasons as well, so that it gets something that cannot be resolved instead.
        """
        if self._committing is None or self._committing != self._get_ident():
            return data
        if self._undoing:
            return data if is_safe(data) else UNRESOLVABLE
        if not self._resolve:
            raise ConflictError('conflicts are left to the client')
        check_record(data)
        return data

    def references(self, record: bytes, oids: list[bytes] | None = None) -> list[bytes]:
        """The oids that `record` refers to."""
        found: list[bytes] = referencesf(record, oids)
        return found

    def invalidate(self, tid: bytes, oids: Any, version: str = '') -> None:
        """Another server's transaction `tid` changed `oids`."""
        self._on_invalidate(tid, list(oids))

    def invalidateCache(self) -> None:
        """Anything may have changed."""
        self._on_reset()
