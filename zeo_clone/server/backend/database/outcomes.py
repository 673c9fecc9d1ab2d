"""What became of a transaction, found out in the database, for good (C11, X2).

In: a client's token and the number of its transaction.  Out: the tid if it was committed; else it never
will be, by whatever server, because the number is fenced.  The database lets the question wait for a COMMIT
that is under way.  Threads that may wait; no loop here.
"""
from __future__ import annotations

from typing import NamedTuple

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.database.reader import DatabaseAway
from zeo_clone.server.backend.database.relstorage import Database

#: Pause before the database is asked again, in seconds.
PAUSE_S = 0.1


class Found(NamedTuple):
    """The client's last transaction that was committed."""

    number: int
    tid: bytes | None


class Fences:
    """The fences in `database`, which is asked again for `patience_s` when it is away."""

    def __init__(self, runtime: Runtime, database: Database, patience_s: float) -> None:
        self._runtime = runtime
        self._database = database
        self._patience_s = patience_s

    def fence(self, token: bytes, number: int) -> Found:
        """From now on no transaction of the client up to `number` can be committed.

        Raises `DatabaseAway` when the database stays away, StorageError when it refuses."""
        clock = self._runtime.monotonic
        until = clock() + self._patience_s
        pause = self._runtime.event()
        while True:
            try:
                with self._database.connection(max(1.0, until - clock())) as cursor:
                    return Found(*self._database.fence(cursor, token, number))
            except Exception as error:
                if not (self._database.is_away(error) or self._database.lacks(error)):
                    raise self._database.translate(error) from error
                if clock() + PAUSE_S >= until:
                    raise DatabaseAway(f'{self._database.trouble(error)}; ask again, or another server '
                                       f'({" ".join(str(error).split())[:200]})') from error
            pause.wait(PAUSE_S)
