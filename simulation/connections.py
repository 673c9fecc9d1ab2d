"""Workers with real Connections of ZODB: objects, an object cache, a transaction manager.

What they do and what is noted is the same as with other workers; only objects are read and written, where
those deal with records.  New objects, blobs, undo and chosen tids go to the Connection's storage.
"""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import transaction
import zope.interface
from transaction.interfaces import NoTransaction
from ZODB.DB import DB
from ZODB.interfaces import IMVCCStorage

from simulation.book import Attempt, Fate
from simulation.program import Abandoned, Worker
from simulation.records import Content

if TYPE_CHECKING:
    from simulation.dice import Dice
    from simulation.program import Adapter
    from simulation.service import Client
    from simulation.world import World


def database(adapter: Adapter, cache_size: int) -> DB:
    """A database whose connections use `adapter`."""
    zope.interface.alsoProvides(adapter, IMVCCStorage)
    return DB(adapter, cache_size=cache_size)


class Last:
    """The last one to vote in a transaction: whoever comes after it, commits."""

    def __init__(self, worker: Connected, attempt: Attempt, stop: str) -> None:
        self._worker = worker
        self._attempt = attempt
        self._stop = stop

    def sortKey(self) -> str:
        return '~'

    def tpc_begin(self, transaction: Any) -> None:
        pass

    tpc_finish = tpc_abort = abort = commit = tpc_begin

    def tpc_vote(self, transaction: Any) -> None:
        if self._stop:
            self._worker.hesitate()
            raise Abandoned
        self._worker.book.settle(self._attempt, Fate.FINISHING)


class Connected(Worker):
    """One thread of a client, with a Connection."""

    def __init__(self, world: World, name: str, storage: Any, db: DB, dice: Dice, client: Client) -> None:
        self._manager = transaction.TransactionManager(explicit=True)
        self._connection = db.open(self._manager)
        super().__init__(world, name, storage, db.storage, dice, client, self._connection._storage)

    def begin(self) -> None:
        self._abort()
        self._look_at_last()
        self.cache.clear()
        self.dropped = self.adapter.dropped
        latest = self._ask_what_is_latest()
        self._manager.begin()
        self._look_at_snapshot(latest)

    def read(self, *oids: bytes) -> list[tuple[Content, bytes]]:
        if any(oid in self.world.blobs for oid in oids):
            return super().read(*oids)
        found = []
        for oid in oids:
            cell = self._connection.get(oid)
            cell._p_activate()
            self.cache[oid] = cell.content, cell._p_serial
            found.append(self.cache[oid])
        self.note_seen(oids, found)
        return found

    def write(self, contents: dict[bytes, Content], checked: tuple[tuple[bytes, bytes], ...] = (), *,
              new: bool = False, blobs: bool = False, stop: str = '', tid: bytes | None = None,
              adds: dict[bytes, int] | None = None) -> bool:
        if new or blobs or tid is not None:
            return self._write_records(contents, checked, new=new, blobs=blobs, tid=tid)
        attempt = self.book.new_attempt(self.name, tuple(contents))
        attempt.adds = adds or {}
        connection, manager = self._connection, self._manager

        def write(meta: Any) -> None:
            for oid, content in contents.items():
                cell = connection.get(oid)
                cell.content, cell.padding = content._replace(attempt=attempt.number), self.padding()
            attempt.bases = {oid: self.cache[oid][1] for oid in contents} | dict(checked)
            for oid, _ in checked:
                connection.readCurrent(connection.get(oid))
            if stop == 'begun':
                raise Abandoned

        def finish(meta: Any) -> bytes:
            manager.get().note(str(attempt.number))
            manager.get().join(Last(self, attempt, stop))
            manager.commit()
            return self.adapter.finished[self.instance]

        return self.commit(attempt, Resource(manager), write, finish) is not None

    def _write_records(self, contents: dict[bytes, Content], *args: Any, **keywords: Any) -> bool:
        try:
            return super().write(contents, *args, **keywords)
        finally:
            self._connection._cache.invalidate(list(contents))

    def forget(self, attempt: Attempt) -> None:
        super().forget(attempt)
        self._connection._cache.invalidate(list(attempt.oids))

    def _abort(self) -> None:
        with contextlib.suppress(NoTransaction):
            self._manager.abort()

    def close(self) -> None:
        self._abort()
        self._connection.close()


class Resource:
    """A transaction of `manager`, for `Worker.commit`: all is done by its commit."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def tpc_vote(self, meta: Any) -> None:
        pass

    def tpc_abort(self, meta: Any) -> None:
        with contextlib.suppress(NoTransaction):
            self._manager.abort()
