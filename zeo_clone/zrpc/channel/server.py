"""The server's end of a connection: joins a `ServerCore` to a socket.

In: what the loop finds readable or writable, in the loop's thread only.  Out: events to a handler, bytes
to the client.  It bounds what waits for a client that does not read and the time that a client gets before
the others are served, and tells the handler exactly once that the connection has gone, whoever closed it.
What a call means is the handler's business.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.loop.poller import READ, WRITE
from zeo_clone.loop.tls import is_fault
from zeo_clone.loop.transport import LARGE_PIECE, Transport
from zeo_clone.zrpc.channel.memory import PIECE_OVERHEAD, Memory, Share, unlimited
from zeo_clone.zrpc.connection import ServerCore
from zeo_clone.zrpc.marshal import Encoded

log = logging.getLogger(__name__)

#: While a client's own messages are processed, the output is collected up to this many bytes.
SEND_SIZE = 64 << 10
#: Output waiting for a client: above this nothing is read from it (N8) or processed for it ...
HIGH_WATER = 16 << 20
#: ... until it has fallen to this, which is also when a stream that is being sent goes on ...
LOW_WATER = 1 << 20
#: ... and above this the connection is closed: invalidations cannot wait for ever.
OUTPUT_LIMIT = 512 << 20
#: A client's messages are processed for so many seconds, then others get their turn (S11): a hundred loads,
#: and so little that a load of somebody else is answered well within 10 ms, whatever this one sends.
TURN_S = 0.002
#: Characters of a peer's or an error's text that go into a log line (L8).
MAX_TEXT = 1000

_NO_EVENTS: Iterator[Any] = iter(())


def describe(error: BaseException) -> str:
    """`error` in a few words for a log line."""
    return f'{type(error).__name__}: {error}'[:MAX_TEXT]


class ServerHandler(Protocol):
    """What a `ServerChannel` tells, all in the loop's thread."""

    def handle_event(self, event: Any) -> Iterator[None] | None:
        """`Agreed`, `HealthChecked` or `Call`.  An exception closes the connection.

        An iterator is the rest of the work, in parts of a millisecond or less, done before the next event.
        """

    def handle_room(self) -> None:
        """There is room for more output; told once after each `ServerChannel.want_room`."""

    def handle_lost(self, reason: str, level: int) -> None:
        """The connection has gone, whoever closed it (C16); `level` for the log.  Called exactly once.
        """


class News(Protocol):
    """Messages for many connections, each of which remembers its place among them."""

    end: int

    def since(self, place: int) -> bytes:
        """All from `place` on."""


class NoNews:
    """There are none."""

    end = 0

    def since(self, place: int) -> bytes:
        """Nothing."""
        return b''


class ServerChannel(Dispatcher):
    """One client's connection.  Loop thread only.

    What one turn produces for a client goes out in one piece, unless it is much: while its own messages are
    processed the output is collected.
    """

    def __init__(self, loop: Loop, transport: Transport, core: ServerCore,
                 output_limit: int = OUTPUT_LIMIT, memory: Memory | None = None) -> None:
        super().__init__(loop, transport.socket)
        self.transport = transport
        self.core = core
        self.handler: ServerHandler | None = None
        self._output_limit = output_limit
        self._largest = 0  # bytes of the largest message that waits, if it alone is above the high-water mark
        self._memory = memory or unlimited()
        self.share = Share(self._memory)
        self._counted = 0  # of that: input and output
        self._news: News = NoNews()
        self._place = 0  # all before it has been sent
        self._common: deque[tuple[int, bytes]] = deque()  # messages made for many, and where their ends are
        self._common_size = 0
        self._frames = core.frames
        self._events = _NO_EVENTS  # received, not all processed yet; None: a part of something long
        self._unprocessed = 0  # bytes of the pieces that these are in
        self._parts = _NO_EVENTS  # what is left of the work for the event before these
        self._paused = False  # too much output waits: neither process nor read
        self._behind = False  # its turn is over, its messages are not: in line, and not read from
        self._collecting = False
        self._closing = False  # close when the output has gone
        self._room_wanted = False
        self._last_received = loop.runtime.monotonic()
        self._sent_before = 0  # bytes, at the last keep-alive

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self.transport.queued

    @property
    def unfinished(self) -> int:
        """Bytes that have come of a message that is not whole yet."""
        return self._frames.buffered

    @property
    def waiting(self) -> int:
        """Bytes that wait, of input, output and whatever else is counted in `share`."""
        return self.share.size + self._common_size

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received, and waiting to be sent."""
        return self.transport.sent, self.transport.received, self.transport.queued

    def is_own_user(self) -> bool:
        """Is the client a process of the server's own user, through a unix socket?"""
        return self.loop.runtime.is_own_user(self.socket)

    def start(self, handler: ServerHandler) -> None:
        """Greet the client and listen to it."""
        self.handler = handler
        self.open(READ)
        self.send(self.core.greet())

    # ---- input ------------------------------------------------------------------------------------

    def handle_read(self) -> None:
        try:
            data = self.transport.receive(self.core.in_bulk)
        except OSError as error:
            # A hang-up is ordinary, a certificate that is not accepted is not.
            self.lose(describe(error), logging.WARNING if is_fault(error) else logging.INFO)
            return
        if data is None:
            self._look_for_events()  # a TLS handshake may have something to say
            return
        if not data:
            self.lose('closed by the client')
            return
        self._last_received = now = self.loop.runtime.monotonic()
        # While it is not read from this happens only at a hang-up: the rest comes, then the end.
        received, waits = self.core.receive_data(data), self._paused or self._behind
        self._events = chain(self._events, received) if waits else received
        if waits:
            self._unprocessed += len(data)
            self._count()
        else:
            self._process(now + TURN_S, len(data))

    def _process(self, until: float, size: int = 0) -> None:
        """Process what has been received, `size` bytes of it just now, until that time, or until it produces
        too much output."""
        handler = self.handler
        if handler is None:
            return
        self._collecting = True
        transport, full, clock = self.transport, SEND_SIZE, self.loop.runtime.monotonic
        events = self._events if self._parts is _NO_EVENTS else chain(self._parts, self._events)
        try:
            for event in events:
                parts = None if event is None else handler.handle_event(event)
                if self.closed or self._closing:
                    break
                if parts is not None:
                    self._parts = parts
                    self._unprocessed += size
                    self._fall_behind()
                    break
                if transport.queued > full:
                    self._note_large(transport.queued - full + SEND_SIZE)
                    self._flush()  # the client can go to work on it
                    full = transport.queued + SEND_SIZE
                    if self.closed:
                        break
                if transport.queued > HIGH_WATER or transport.queued > LOW_WATER and self._memory.is_tight:
                    self._paused = True  # the other events wait in their iterator
                    self._unprocessed += size
                    break
                if clock() >= until:
                    self._unprocessed += size
                    self._fall_behind()
                    break
            else:
                self._events = self._parts = _NO_EVENTS
                if self._unprocessed:
                    self._unprocessed = 0
        except ProtocolError as error:
            self.lose(f'{error}', logging.WARNING)
        finally:
            self._collecting = False
        if not self.closed and (self.transport.queued or self._closing):
            self._flush()
        if self._counted or self._unprocessed or self._frames.partial:
            self._count()
            self._memory.check()

    # ---- what waits -------------------------------------------------------------------------------

    def _count(self) -> None:
        """Have what waits now counted."""
        if self.closed:
            return
        transport = self.transport
        while self._common and transport.sent >= self._common[0][0]:
            self._let_go()
        output = max(0, transport.queued - self._common_size) + PIECE_OVERHEAD * transport.pieces
        waiting = output + self._frames.buffered + self._unprocessed
        if waiting != self._counted:
            self.share.add(waiting - self._counted)
            self._counted = waiting

    def _let_go(self) -> None:
        _, message = self._common.popleft()
        self._common_size -= len(message)
        self._memory.let_go(message)

    def _fall_behind(self) -> None:
        if not self._behind:
            self._behind = True
            self.loop.in_line(self._go_on)
            self._look_for_events()

    def _go_on(self) -> None:
        """It is its turn again."""
        self._behind = False
        if self.closed:
            return
        try:
            if not self._paused:
                self._process(self.loop.runtime.monotonic() + TURN_S)
            self._look_for_events()
        except Exception as error:
            self.handle_error(error)

    # ---- output -----------------------------------------------------------------------------------

    def reply(self, message_id: Any, value: Any) -> None:
        """Answer a call."""
        self.send(self.core.send_reply(message_id, value))

    def reply_loaded(self, message_id: Any, revision: Any) -> None:
        """`reply` with the result of loadBefore, faster."""
        self.send(self.core.send_loaded(message_id, revision))

    def reply_encoded(self, message_id: Any, value: Encoded) -> None:
        """`reply` with what is encoded already; a large one goes out in pieces."""
        for piece in self.core.send_encoded(message_id, value):
            self.send(piece)

    def fail(self, message_id: Any, error: BaseException) -> None:
        """Answer a call with an error."""
        self.send(self.core.send_error(message_id, error))

    def tell(self, name: str, args: tuple[Any, ...]) -> None:
        """Call a method of the client, one-way."""
        self.send(self.core.send_oneway(name, args))

    def tell_later(self, name: str, args: tuple[Any, ...]) -> None:
        """`tell` in a later turn, so that others get theirs before."""
        self.queue(self.core.send_oneway(name, args))

    def tell_health(self, status: dict[str, Any]) -> None:
        """Answer a health check or an operator, who wants nothing else."""
        self.send(self.core.health(status))
        self.close_when_sent()

    def send(self, data: bytes) -> None:
        """Send `data`, after what was sent before.  Never blocks, never raises."""
        if self.closed:
            return
        if self._place != self._news.end:
            data = self._after_news(data)
        try:
            if self._collecting:
                self.transport.write(data)
                return
            self._note_large(len(data))
            self.transport.send(data)
        except OSError as error:
            self.lose(describe(error))
            return
        self._after_output()

    def follow(self, news: News) -> None:
        """Before anything else is sent comes what is added to `news` from now on."""
        self._news, self._place = news, news.end

    def tell_news(self) -> None:
        """Send what there is."""
        if self._place != self._news.end:
            data = self._news.since(self._place)
            self.skip_news()
            if len(data) < LARGE_PIECE:
                self.send(data)
            else:
                self.send_common(data)

    def _after_news(self, data: bytes) -> bytes:
        """What is to be sent: small ones go in one piece with what comes after them."""
        news = self._news.since(self._place)
        if len(news) + len(data) < LARGE_PIECE:
            self.skip_news()
            return news + data
        self.tell_news()
        return data

    def skip_news(self) -> None:
        """The client knows of all that there are."""
        self._place = self._news.end

    def _note_large(self, size: int) -> None:
        """A message has about so many bytes."""
        if size > HIGH_WATER:
            self._largest = max(self._largest, size)

    def send_common(self, data: bytes) -> None:
        """`send` of a message that many connections get: what waits of it for them is in memory once."""
        self.send(data)
        if (len(data) >= LARGE_PIECE and not self.closed and self.transport.queued
                and self.transport.keeps_pieces):
            self._common.append((self.transport.sent + self.transport.queued, data))
            self._common_size += len(data)
            self._memory.hold(data)
            self._count()

    def queue(self, data: bytes) -> None:
        """Have `data` sent in a later turn, so that others get theirs before."""
        if self.closed:
            return
        self.tell_news()
        try:
            self.transport.write(data)
            self._count()
        except OSError as error:
            self.lose(describe(error))
            return
        self._look_for_events()

    def keep_alive(self) -> None:
        """Have the client ignore something, if nothing was sent since the last time."""
        if self.transport.sent == self._sent_before and not self.transport.queued:
            self.send(self.core.send_keep_alive())
        self._sent_before = self.transport.sent

    def silence(self) -> float:
        """Seconds since something was heard; 0 while nothing is read because output or messages wait."""
        return 0.0 if self._paused or self._behind else self.loop.runtime.monotonic() - self._last_received

    def want_room(self) -> None:
        """Call ``handle_room`` in a later turn, when little output waits."""
        self._room_wanted = True
        self._look_for_events()

    def handle_write(self) -> None:
        self._flush()
        if self.closed or self.transport.queued > LOW_WATER:
            return
        if self._room_wanted and self.handler is not None:
            self._room_wanted = False
            self.handler.handle_room()
        if self._paused:
            self._paused = False
            if not self._behind:
                self._process(self.loop.runtime.monotonic() + TURN_S)
        self._look_for_events()

    def _flush(self) -> None:
        try:
            self.transport.flush()
        except OSError as error:
            self.lose(describe(error))
            return
        self._after_output()

    def _after_output(self) -> None:
        queued = self.transport.queued
        if queued or self._counted or self._closing:
            if queued > self._output_limit + self._largest:  # one message may be larger than that
                self.lose(f'it does not read: {queued} bytes wait for it (output-limit)', logging.WARNING)
                return
            if not queued:
                self._largest = 0
                if self._closing:
                    self.lose('closed by the server')
                    return
            self._count()
            if queued > HIGH_WATER or queued > LOW_WATER and self._memory.is_tight:
                self._paused = True
        self._look_for_events()

    def _look_for_events(self) -> None:
        # `set_interest` does nothing when nothing changes, or after the end.
        busy = self.transport.queued or self._room_wanted or self._paused
        reading = 0 if self._paused or self._behind or self._closing else READ
        self.set_interest(reading | WRITE if busy else reading)

    # ---- the end ----------------------------------------------------------------------------------

    def close_when_sent(self) -> None:
        """Close as soon as the output has gone; nothing more is read."""
        self._closing = True
        if not self._collecting:
            self._after_output()

    def lose(self, reason: str, level: int = logging.INFO) -> None:
        """Close now and tell the handler why, once."""
        if self.closed:
            return
        self._events = self._parts = _NO_EVENTS
        handler, self.handler = self.handler, None
        try:
            self.close()
            self.core.close()
        finally:
            self.closed = True  # whatever the descriptor says
            self.transport.forget()
            while self._common:
                self._let_go()
            self.share.close()
            if handler is not None:
                handler.handle_lost(reason[:MAX_TEXT], level)

    def handle_close(self) -> None:
        self.lose('the server ends')

    def handle_error(self, error: Exception) -> None:
        self.loop.throttle.report(log, logging.ERROR, f'session: {type(error)}', '', '%r failed',
                                  self.handler, error=error)
        self.lose(f'an error in the server: {describe(error)}', logging.ERROR)
