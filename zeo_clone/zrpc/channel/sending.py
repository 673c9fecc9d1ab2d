"""What leaves on a client's connection, sent by the threads that have something to say.

In: frames that a core has made, from any thread, in the order in which each makes them.  Out: bytes to the
transport, under one lock.  What the socket does not take at once is sent by the loop, or by the thread whose
it is; from that comes back-pressure.
"""
from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from zeo_clone.Exceptions import ClientDisconnected, ClientStorageError
from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.transport import Transport
from zeo_clone.zrpc.channel.calls import PendingCall

#: One-way calls are collected up to this many bytes before they are sent.
COLLECT_SIZE = 64 * 1024
#: A thread that has more than this waiting for the socket waits itself.
HIGH_WATER = 4 << 20
#: Calls of different threads that are sent together at most: the server works on them meanwhile.
TOGETHER = 4


class Room(Protocol):
    """Who knows when the socket takes more."""

    def want_write(self, wanted: bool) -> None:
        """Have the loop call `Sender.go_on` when there is room, or no longer.  Under the sender's lock."""

    def wait_for_room(self) -> None:
        """Wait until there is room, for a while at most."""

    def orphan(self) -> None:
        """This process was forked: the connection is the parent's."""


class Sender:
    """The output of one connection."""

    def __init__(self, runtime: Runtime, home: Any, transport: Transport, room: Room) -> None:
        self._home = home  # ``home[0]`` is false in a process that was forked since
        self._transport = transport
        self._room = room
        self.lock = runtime.lock()  # protects the transport's output and `fate`; taken before the role's
        self.fate: Exception | None = None  # why the connection is closed, or about to be
        self.outbox: deque[bytes] = deque()  # calls not yet sent; single operations on it are atomic ...
        self.woken: set[PendingCall] = set()  # ... and on this: done, and their threads do not know it yet

    def check_fate(self) -> None:
        """Raises `ClientDisconnected` if it is closed, or about to be."""
        if not self._home[0]:
            self._room.orphan()  # no lock of before may be taken any more
        if self.fate is not None:
            raise ClientDisconnected(f'not connected: {self.fate}') from self.fate

    def transmit(self, data: bytes, block: bool = True) -> None:
        """Send now, after what waits."""
        if not self._home[0]:
            self.check_fate()
        with self.lock:
            self.check_fate()
            waiting = self._flush(data)
            if waiting and not block:
                self._room.want_write(True)
        if waiting and block:
            self._drain(0)

    def collect(self, data: bytes, flush: bool) -> None:
        """Send with the next call, or when it is enough, or now (`flush`)."""
        if not self._home[0]:
            self.check_fate()
        with self.lock:
            if self.fate is not None:
                self.check_fate()
            if self.outbox:  # perhaps with an earlier call of this thread, which a signal ended
                self._flush()
            try:
                self._transport.write(data)
            except BaseException as error:  # TLS encrypts here, and cannot once the peer has hung up
                self._failed(error)
                self.check_fate()
            waiting = self._transport.queued
            if flush or waiting > COLLECT_SIZE:
                waiting = self._flush()
        if waiting > HIGH_WATER or flush and waiting:
            self._drain(0 if flush else HIGH_WATER)

    def post(self, data: bytes, hot: bool) -> None:
        """`transmit` for a caller that waits for the reply.

        Threads that were woken by one batch of replies mostly make their next calls at once: on a hot
        connection these leave together.  The last thread to wake sends what waits.
        """
        if not hot or not (self.woken or self.outbox):
            self.transmit(data)
            return
        self.outbox.append(data)
        self.check_fate()
        if not self.woken or len(self.outbox) >= TOGETHER:
            self.send_posted()

    def send_posted(self) -> None:
        """Send what waits in the outbox.  Never blocks."""
        with self.lock:
            if self.fate is None:
                self._flush()

    def awake(self, pending: PendingCall) -> None:
        """Called by the thread whose call is done."""
        self.woken.discard(pending)
        if not self.woken and self.outbox:
            self.send_posted()

    def forget_woken(self) -> None:
        """Wait for no thread to say that it is awake: a signal may have kept one from it."""
        self.woken.clear()
        if self.outbox:
            self.send_posted()

    def go_on(self) -> None:
        """Loop: there is room."""
        with self.lock:
            if self.fate is not None or not self._flush():
                self._room.want_write(False)

    def look(self) -> None:
        """Reader's role, after it read: TLS may have something to say of its own accord."""
        with self.lock:
            self._room.want_write(bool(self._transport.queued))

    def doom(self, error: Exception) -> None:
        """Close because of `error`: the reader meets the end of the stream, after what arrived before."""
        if not self._home[0]:
            self._room.orphan()
        with self.lock:
            self._doom(error)

    def _doom(self, error: Exception) -> None:
        self._transport.shutdown()
        if self.fate is None:
            self.fate = error

    def _failed(self, error: BaseException) -> None:
        """Under the lock, in an ``except``: sending raised `error`.  Raises it on if it is no ``OSError``."""
        if not isinstance(error, OSError):
            # A signal's exception: nobody knows how much of the frame is on its way.
            self._doom(ClientStorageError('a signal interrupted sending'))
            raise
        self._doom(error)

    def _flush(self, data: bytes = b'') -> int:
        """Under the lock: send `data`, after what waits.  Returns how many bytes are left.

        If calls from the outbox may be among these, the loop sends them: who waits for them need not be who
        flushes, nor need that one send anything more.
        """
        posted: list[bytes] = []
        try:
            if self.outbox:
                posted = [self.outbox.popleft() for _ in range(len(self.outbox))]
                data = b''.join((*posted, data))
            if data:
                self._transport.send(data)
            if self._transport.queued:
                self._transport.flush()
        except BaseException as error:
            self._failed(error)
            return 0  # the reader's clean-up fails the calls
        if posted and self._transport.queued:
            self._room.want_write(True)
        return self._transport.queued

    def _drain(self, low: int) -> None:
        """Wait until at most `low` bytes are queued."""
        try:
            while self._transport.queued > low and self.fate is None:
                self._room.wait_for_room()
                with self.lock:
                    if self.fate is None:
                        self._flush()
        except BaseException:
            # A signal's exception.  The rest is for the loop to send.
            with self.lock:
                self._room.want_write(True)
            raise
