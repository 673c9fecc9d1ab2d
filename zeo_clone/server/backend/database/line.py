"""A connection to the database that never lets the loop wait: one question at a time, answers when they come.

In: questions, statements with their arguments; readiness of the descriptor.  Out: ``ready()`` when there is
room for one, ``lost(error)`` when the connection has gone or cannot be made, ``notified(texts)`` when the
database says that there is something new.  A line that was lost is opened again by itself, with pauses.
Loop thread only, but for the making of connections: names are looked up for that.  It knows no SQL: what
makes a connection and moves it on is given to it.
"""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.loop.poller import READ, WRITE

log = logging.getLogger(__name__)

#: Pauses between attempts to connect, in seconds: the first, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
#: It is looked at so often, in seconds, whether an answer or a connection takes too long.
TICK_S = 1.0

Rows = list[tuple[Any, ...]]
Done = Callable[[Rows], object]


class Connects(Protocol):
    """A database."""

    def connect(self) -> Any:
        """A connection.  Takes its time, in a thread for it."""

    def advance(self, connection: Any) -> str:
        """Go on: 'read', 'write' or 'done'."""

    def is_away(self, error: BaseException) -> bool:
        """Has the database gone?"""


class User(Protocol):
    """What the owner of a line is told."""

    def ready(self) -> None:
        """The line is there, and nothing is under way."""

    def lost(self, error: Exception) -> None:
        """The connection has gone, with what was under way."""

    def failed(self, error: Exception) -> None:
        """The database refuses what was asked; the connection is good."""

    def notified(self, texts: list[str]) -> None:
        """The database has something new, of which it says that."""


class _Wire(Dispatcher):
    """The descriptor of a connection."""

    def __init__(self, line: Line, connection: Any) -> None:
        super().__init__(line.loop, connection)
        self._line = line

    def handle_read(self) -> None:
        self._line.advance()

    handle_write = handle_read

    def handle_close(self) -> None:
        self._line.close()

    def handle_error(self, error: Exception) -> None:
        self._line.broke(error)


class Line:
    """`user`'s line to `database`.  `opening` is said first each time; an answer may take `patience_s`."""

    def __init__(self, loop: Loop, database: Connects, user: User, patience_s: float,
                 opening: str) -> None:
        self.loop = loop
        self._database = database
        self._user = user
        self._patience_s = patience_s
        self._opening = opening
        self._connection: Any = None
        self._wire: _Wire | None = None
        self._cursor: Any = None  # of all questions, once there is a connection
        self._done: Done | None = None  # of the question that is under way
        self._since = 0.0  # when that was begun
        self._pause_s = FIRST_PAUSE_S
        self._closed = False
        #: Can a question be asked?
        self.is_ready = False

    def __repr__(self) -> str:
        return f'<Line {"ready" if self.is_ready else "busy" if self._connection else "not connected"}>'

    # ---- opening and closing ------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._connect()
        self.loop.call_later(TICK_S, self._tick)

    def _connect(self) -> None:
        if self._closed:
            return
        try:
            self.loop.runtime.start_thread(self._make, 'zeo-server-database')
        except Exception as error:  # the system has none left
            self.broke(error)

    def _make(self) -> None:
        """Connect, in a thread of its own."""
        try:
            connection = self._database.connect()
        except Exception as error:
            self.loop.door(partial(self.broke, error))
        else:
            self.loop.door(partial(self._made, connection))

    def _made(self, connection: Any) -> None:
        if self._closed:
            connection.close()
            return
        self._connection, self._cursor = connection, connection.cursor()
        self._wire = _Wire(self, connection)
        self._wire.open(READ)
        self.ask(self._opening, None, _opened)

    def close(self) -> None:
        """For good.  May be called twice."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        self.is_ready = False
        self._connection = self._cursor = self._done = None
        wire, self._wire = self._wire, None
        if wire is not None:
            with contextlib.suppress(OSError):  # a connection that has failed has no descriptor any more
                wire.set_interest(0)
            wire.close()

    def broke(self, error: Exception) -> None:
        """The connection is not good any more, or could not be made."""
        self._drop()
        if self._closed:
            return
        self.loop.call_later(self._pause_s, self._connect)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._user.lost(error)

    def renew(self) -> None:
        """Have a new connection: an answer that is on its way does not come."""
        if self._connection is not None:
            self.broke(ConnectionResetError('the connection is not wanted any more'))

    def _tick(self) -> None:
        if self._closed:
            return
        self.loop.call_later(TICK_S, self._tick)
        if self._done is not None and self.loop.runtime.monotonic() - self._since > self._patience_s:
            self.broke(TimeoutError('the database does not answer'))

    # ---- questions ----------------------------------------------------------------------------------

    def ask(self, statement: str, arguments: Any, done: Done) -> None:
        """Have `done` called with the rows.  Only when `is_ready`."""
        self.is_ready = False
        self._since = self.loop.runtime.monotonic()
        self._done = done
        try:
            self._cursor.execute(statement, arguments)
        except Exception as error:
            self.broke(error)
            return
        self.advance()

    def advance(self) -> None:
        """Go on as far as that is possible without waiting."""
        connection, wire = self._connection, self._wire
        if connection is None or wire is None:
            return
        try:
            state = self._database.advance(connection)
        except Exception as error:
            self._refused(error)
            return
        wire.set_interest(WRITE if state == 'write' else READ)
        told = [notice.payload for notice in connection.notifies]
        if told:
            connection.notifies.clear()
        if state == 'done':
            self._answered()
        if told:
            self._user.notified(told)

    def _refused(self, error: Exception) -> None:
        is_opening = self._done is None or self._done is _opened
        if is_opening or self._connection.closed or self._database.is_away(error):
            self.broke(error)
            return
        self._done = None
        self.is_ready = True
        self._user.failed(error)
        self._tell_ready()

    def _answered(self) -> None:
        done, self._done = self._done, None
        if done is None:
            return  # nothing was asked: a notice, or nothing at all
        rows: Rows = self._cursor.fetchall() if self._cursor.description is not None else []
        self.is_ready = True
        self._pause_s = FIRST_PAUSE_S
        done(rows)
        self._tell_ready()

    def _tell_ready(self) -> None:
        if self.is_ready:
            self._user.ready()


def _opened(_: Rows) -> None:
    """What a line begins with has been said."""
