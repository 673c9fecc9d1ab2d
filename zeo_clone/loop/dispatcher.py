"""Dispatchers: what belongs to one file descriptor, in asyncore's words.

In: events from the loop, in its thread.  Out: ``handle_read, handle_write, handle_connect,
handle_accept, handle_close, handle_error``, to be overridden.  An exception in one of them goes to
``handle_error``, which logs it and closes this dispatcher only.
"""
from __future__ import annotations

import logging

from zeo_clone.loop.core import Loop
from zeo_clone.loop.poller import READ, WRITE
from zeo_clone.loop.runtime import Socket

log = logging.getLogger(__name__)

#: Errors and hang-ups are found by reading or writing, so every event that is not WRITE reads.
_NOT_WRITE = ~WRITE


class Dispatcher:
    """Base class: a registered socket and the events it asks for.  Closed exactly once."""

    def __init__(self, loop: Loop, sock: Socket) -> None:
        self.loop = loop
        self.socket = sock
        self.fd: int = sock.fileno()
        self.closed = False
        self._interest = 0

    def __repr__(self) -> str:
        state = 'closed' if self.closed else f'fd {self.fd}'
        return f'<{type(self).__name__} {state}>'

    def open(self, mask: int = READ) -> None:
        """Register with the loop and wait for the events in `mask`."""
        self.loop.register(self)
        self.set_interest(mask)

    def set_interest(self, mask: int) -> None:
        """Wait for READ and/or WRITE from now on; 0 for neither."""
        if mask != self._interest and not self.closed:
            self.loop.set_interest(self.fd, mask)
            self._interest = mask

    def want(self, event: int, wanted: bool = True) -> None:
        """Add `event` (READ or WRITE) to the interest, or take it away."""
        self.set_interest(self._interest | event if wanted else self._interest & ~event)

    def handle_event(self, mask: int) -> None:
        """Called by the loop: `mask` says what the descriptor is ready for."""
        try:
            if mask & WRITE:
                self.handle_write()
            if mask & _NOT_WRITE and not self.closed:
                self.handle_read()
        except Exception as error:
            self.handle_error(error)

    def close(self) -> None:
        """Unregister and close the descriptor.  May be called twice, also if an exception ended the first."""
        if not self.closed:
            self.loop.unregister(self)
            self.socket.close()
            self.closed = True

    def orphan(self) -> None:
        """Drop the copy of the descriptor in a process that was forked; the peer notices nothing."""
        self.closed = True
        self.socket.close()

    # ---- to be overridden ---------------------------------------------------------------------

    def handle_read(self) -> None:
        """The descriptor is readable, at its end, or broken."""

    def handle_write(self) -> None:
        """The descriptor is writable."""

    def handle_connect(self) -> None:
        """A connect that was under way has come about."""

    def handle_accept(self, sock: Socket, address: object) -> None:
        """A connection came in at a listening socket."""

    def handle_close(self) -> None:
        """The peer, or the loop at its end, wants it closed."""
        self.close()

    def handle_error(self, error: Exception) -> None:
        """A handler raised `error`."""
        self.loop.throttle.report(log, logging.ERROR, f'{type(self)} {type(error)}', '',
                                  '%r failed and is closed', self, error=error)
        self.handle_close()


class Acceptor(Dispatcher):
    """A listening socket.  An error in accept, too many open files included, never stops it."""

    #: Connections accepted per turn, so that a storm of them leaves time for the others.
    PER_TURN = 64
    #: Pause after an error such as "too many open files", in seconds.
    PAUSE_S = 0.25

    def pause_s(self) -> float:
        """For how many seconds no connection can be taken: they wait in the system.  To be overridden."""
        return 0.0

    def handle_read(self) -> None:
        for _ in range(self.PER_TURN):
            pause = self.pause_s()
            if pause > 0:
                self.set_interest(0)
                self.loop.call_later(pause, self._resume)
                return
            try:
                sock, address = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self.loop.throttle.report(
                    log, logging.WARNING, f'accept: {error.errno}', '',
                    '%r cannot accept a connection, trying again in %s s: %s', self, self.PAUSE_S, error)
                self.set_interest(0)
                self.loop.call_later(self.PAUSE_S, self._resume)
                return
            try:
                sock.setblocking(False)
                self.handle_accept(sock, address)
            except Exception as error:
                self.loop.throttle.report(
                    log, logging.ERROR, f'accepted: {type(error)}', '',
                    '%r could not set up a connection from %r', self, address, error=error)
                sock.close()

    def _resume(self) -> None:
        self.set_interest(READ)

    def handle_error(self, error: Exception) -> None:
        self.loop.throttle.report(log, logging.ERROR, f'{type(self)} {type(error)}', '',
                                  '%r goes on after an error', self, error=error)
