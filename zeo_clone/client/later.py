"""Calls of which somebody is told the answer, instead of a thread that waits for it.

In: calls that change nothing, from any thread that must not wait, say of the loop of a server in front of
another one.  Out: ``done(value, error)``, once each, in the reader's role, in wire order with all that the
server tells; or, when there was no answer for `patience_s` seconds, in the thread of the client's loop.  A
call whose connection breaks is made again on the next one.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from zeo_clone.addresses import format_address
from zeo_clone.client.link import Link
from zeo_clone.client.manager import Manager
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.core import Loop
from zeo_clone.wording import format_seconds
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.client import ClientChannel

#: It is looked so often, in seconds, for what has waited too long.
TICK_S = 0.5

Done = Callable[[Any, 'BaseException | None'], object]
#: Sends a call on a channel, without waiting; its end is told to a function.
Send = Callable[[ClientChannel, PendingCall], None]


class LaterCall:
    """One call: what sends it, what becomes of its reply, and who is told."""

    __slots__ = ('deadline', 'done', 'failed', 'on_reply', 'send')

    def __init__(self, send: Send, on_reply: Callable[[Any], Any] | None, done: Done, deadline: float
                 ) -> None:
        self.send = send
        self.on_reply = on_reply
        self.done = done
        self.deadline = deadline
        self.failed = 0  # so many connections broke


class LaterCalls:
    """All of one storage."""

    def __init__(self, manager: Manager, loop: Loop, patience_s: float) -> None:
        self._manager = manager
        self._places = manager.places
        self._loop = loop
        self._patience_s = patience_s
        self._lock = loop.runtime.lock()  # protects the calls under way, who waits, and _ticking
        self._calls: dict[LaterCall, None] = {}  # that have not ended, the oldest first
        self._waiting: deque[LaterCall] = deque()  # for a connection
        self._ticking = False

    def __repr__(self) -> str:
        return f'<LaterCalls, {len(self._calls)} under way, {len(self._waiting)} wait>'

    # ---- any thread -------------------------------------------------------------------------------

    def begin(self, send: Send, on_reply: Callable[[Any], Any] | None, done: Done) -> None:
        """Make a call.  Never blocks."""
        call = LaterCall(send, on_reply, done, self._loop.runtime.monotonic() + self._patience_s)
        with self._lock:
            self._calls[call] = None
            begins, self._ticking = not self._ticking, True
        if begins:
            self._loop.door(self._tick)
        link = self._places.usable()
        if link is None:
            self._park(call, 0)
        else:
            self._send(call, link)

    def _send(self, call: LaterCall, link: Link) -> None:
        failed = call.failed

        def done(pending: PendingCall) -> None:
            error, value = pending.error, pending.value
            pending.error = pending.value = None
            if isinstance(error, ClientDisconnected) and link.channel.fate is not None:
                self._park(call, failed)  # another connection may know
            else:
                self._end(call, value, error)
        try:
            call.send(link.channel, PendingCall(None, call.on_reply, done))
        except ClientDisconnected:
            self._park(call, failed)
        except Exception as error:
            self._end(call, None, error)

    def _park(self, call: LaterCall, failed: int) -> None:
        """Wait for the next connection.  `failed`: as of the call when it was sent; a connection that breaks
        may be told twice."""
        with self._lock:
            if call in self._calls and call.failed == failed:
                call.failed += 1
                self._waiting.append(call)
        # Asked after that: whoever finds a connection does the two in the other order.
        if self._places.closed:
            self.close()
        elif self._places.usable() is not None:
            self.go_on()

    def go_on(self) -> None:
        """There is a connection."""
        while (link := self._places.usable()) is not None:
            with self._lock:
                if not self._waiting:
                    break
                call = self._waiting.popleft()
            self._send(call, link)

    def close(self) -> None:
        """There will be no connection any more."""
        with self._lock:
            calls = list(self._calls)
            self._waiting.clear()
        for call in calls:
            self._end(call, None, ClientDisconnected('the storage is closed'))

    def _end(self, call: LaterCall, value: Any, error: BaseException | None) -> None:
        with self._lock:
            if call not in self._calls:
                return  # it took too long
            del self._calls[call]
        call.done(value, error)

    # ---- the client's loop ------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.runtime.monotonic()
        late = []
        with self._lock:
            for call in self._calls:
                if call.deadline > now:
                    break
                late.append(call)
            self._waiting = deque(call for call in self._waiting if call.deadline > now)
            self._ticking = len(self._calls) > len(late)
            if self._ticking:
                self._loop.call_later(TICK_S, self._tick)
        if late:
            places = ', '.join(map(format_address, self._manager.addresses))
            for call in late:
                self._end(call, None, ClientDisconnected(
                    f'no answer of a server at {places} within {format_seconds(self._patience_s)}'))
