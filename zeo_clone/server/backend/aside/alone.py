"""All that is asked of a RelStorage on SQLite, which one server has for itself.

In and out: as in `aside.backend`; every second it is looked whether another process has written.  Loop thread
only, apart from what is handed to threads.
"""
from __future__ import annotations

from typing import IO

from zeo_clone.server.backend.aside.backend import AsideBackend
from zeo_clone.server.backend.aside.commit import Chronicler

#: Seconds from one look to the next.
LOOK_S = 1.0


class AloneBackend(AsideBackend):
    """Of an `Alone`."""

    searches_any_age = True
    has_past = True

    def listen(self, chronicler: Chronicler) -> None:
        """See `AsideBackend`."""
        super().listen(chronicler)
        self._look_later()

    def _look_later(self, *_: object) -> None:
        if not self._closed:
            self._loop.call_later(LOOK_S, self._look_for_others)

    def _look_for_others(self) -> None:
        if not self._closed:
            self.ask(self._storage.look).when_settled(self._look_later)

    def open_blob(self, oid: bytes, serial: bytes) -> IO[bytes]:
        """Worker thread: the file of a blob, before a clean-up can remove it (B6).  Raises POSKeyError."""
        file: IO[bytes] = self._storage.openCommittedBlobFile(oid, serial)
        return file

    def changed_between(self, after: bytes, until: bytes) -> list[bytes] | None:
        """Worker thread: found by an index."""
        oids: list[bytes] | None = self._storage.changed_between(after, until)
        return oids

    def has_transaction(self, before: bytes, tid: bytes) -> bool | None:
        """Worker thread: as in `past`."""
        found: bool | None = self._storage.has_transaction(before, tid)
        return found

    def close(self) -> None:
        """At the end."""
        super().close()
        self._storage.close()

