"""Calls that wait for a reply, and who can be the reader of a client's connection.

Parts of `client`, where their threads and locks are explained: a `PendingCall` is made by the thread that
calls and finished in the reader's role.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.zrpc.messages import Change


class ConnectionLost(ClientDisconnected):
    """The connection was lost after a call was sent and before its reply came."""


class ClientHandler(Protocol):
    """What a `ClientChannel` tells: in the reader's role, in wire order."""

    def handle_agreed(self, protocol: str) -> None:
        """The handshake is done; calls may be made."""

    def handle_notice(self, name: str, args: tuple[Any, ...]) -> None:
        """The server called a client's method.  An exception drops the connection (C17)."""

    def handle_silence(self) -> None:
        """The reader has waited for a while and nothing came.  Only if the channel was told how long."""

    def handle_lost(self, error: Exception) -> None:
        """The connection has gone; waiting calls fail right after this.  Called exactly once."""


class RegisteredHandler(ClientHandler, Protocol):
    """What it tells once the client is registered."""

    def handle_changes(self, changes: list[Change]) -> None:
        """`handle_notice` of invalidateTransaction for several in a row, faster: their shape is right."""


class PendingCall:
    """A call that waits for its reply.

    `on_reply` runs in the reader's role at the moment in which the reply is processed and returns what
    the caller gets.  `on_done` is for calls that nobody waits for; it runs there, too.
    """

    __slots__ = ('done', 'error', 'on_done', 'on_reply', 'value', 'wakeup')

    def __init__(self, wakeup: Any, on_reply: Callable[[Any], Any] | None = None,
                 on_done: Callable[[PendingCall], None] | None = None) -> None:
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.on_reply = on_reply
        self.on_done = on_done
        # An acquired lock, released once: when the call is done, or its thread is to be the reader.
        self.wakeup = wakeup

    def take(self, value: Any) -> None:
        """Reader's role: the reply has come.  An exception drops the connection (C17)."""
        self.value = value if self.on_reply is None else self.on_reply(value)

    def finish(self) -> None:
        """Reader's role: value or error is known."""
        self.done = True
        wakeup = self.wakeup  # of a thread that a signal's exception took away it may vanish, or be released
        if wakeup is not None:
            try:
                wakeup.release()
            except RuntimeError:
                pass
        if self.on_done is not None:
            self.on_done(self)

    def result(self) -> Any:
        """The reply's value, once; raises what the call raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # its traceback refers to this frame: leave no cycle
        value, self.value = self.value, None  # which may be large; the core remembers the last call
        return value


class Joinable(PendingCall):
    """A call that nobody waits for when it is made; threads may join it later.

    What becomes of its reply, a subclass says.
    """

    __slots__ = ('joined',)

    def __init__(self) -> None:
        self.done = False
        self.error = self.wakeup = None
        self.joined: list[PendingCall] | None = None  # one for each thread that waits

    def take(self, value: Any) -> None:
        """See `PendingCall.take`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Reader's role, or of the thread that could not send it.  May be called twice, even at once."""
        self.done = True
        if self.joined:
            self.wake_joined()

    def wake_joined(self) -> None:
        """Part of `finish`, after ``done``."""
        while self.joined:
            try:
                waiting = self.joined.pop()
            except IndexError:
                break
            with contextlib.suppress(RuntimeError):  # awake already, to be the reader: it looks at ``done``
                waiting.finish()


class Reader:
    """A reader that is no waiting call."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


LOOP = Reader('the loop')  # the loop's thread, while it processes messages
GONE = Reader('nobody any more')
