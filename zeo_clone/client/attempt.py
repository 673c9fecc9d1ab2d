"""An attempt: from an address to a channel with which a server has registered this client.

Loop thread.  Connect, TLS, greeting, register; then it is over: its owner gets the channel, in the reader's
role and before the next message is processed, or an error.  It knows nothing of cache and database:
invalidations that come before the answer to ``register`` are handed over, too.
"""
from __future__ import annotations

import enum
import os
from typing import Any, NamedTuple, Protocol

from ZODB.POSException import ReadOnlyError

from zeo_clone.client.notices import check_invalidation, is_tid
from zeo_clone.client.options import Options
from zeo_clone.Exceptions import ClientDisconnected, ProtocolError, UnrecognizedResult
from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.loop.poller import WRITE
from zeo_clone.loop.runtime import IN_PROGRESS, Endpoint, Socket
from zeo_clone.loop.tls import TLSTransport
from zeo_clone.loop.transport import Transport
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.connection import ClientCore

#: A server that has not registered this client after this time is given up, in seconds.
CONNECT_TIMEOUT_S = 10.0
#: Invalidations from a server that has not answered ``register`` yet; more, and it is given up.
MAX_EARLY = 1000


class AttemptState(enum.Enum):
    """How far an attempt has come."""

    CONNECTING = enum.auto()
    GREETING = enum.auto()  # and TLS, before that
    REGISTERING = enum.auto()
    REGISTERED = enum.auto()
    FAILED = enum.auto()


_S = AttemptState
#: Where one may go from a state; everything else is an illegal move.
TABLE = {
    _S.CONNECTING: {_S.GREETING, _S.FAILED},
    _S.GREETING: {_S.REGISTERING, _S.FAILED},
    _S.REGISTERING: {_S.REGISTERED, _S.FAILED},
    _S.REGISTERED: set(),
    _S.FAILED: set(),
}


class Target(NamedTuple):
    """One place to try: where, and the host name that was given for it."""

    endpoint: Endpoint
    host: str | None

    def __str__(self) -> str:
        return str(self.endpoint)


class Registered(NamedTuple):
    """What comes of an attempt: a channel, where it leads, what ``register`` said, invalidations so far."""

    channel: ClientChannel
    target: Target
    read_only: bool
    tid: bytes
    early: list[tuple[bytes, list[bytes]]]


class AttemptOwner(Protocol):
    """What an attempt tells; one of these, once."""

    def attempt_registered(self, attempt: Attempt, registered: Registered) -> None:
        """Reader's role: it has come about.  The channel wants another handler before this returns."""

    def attempt_failed(self, attempt: Attempt, error: Exception) -> None:
        """It has come to nothing.  In the reader's role, or where it failed."""


class _Connector(Dispatcher):
    """Waits until a connect that is under way has come about."""

    def __init__(self, loop: Loop, sock: Socket, attempt: Attempt) -> None:
        super().__init__(loop, sock)
        self._attempt = attempt

    def handle_write(self) -> None:
        # Hand the descriptor on without closing it.
        self.closed = True
        self.loop.unregister(self)
        self._attempt.connected(self.socket)

    def handle_read(self) -> None:
        self.handle_write()  # only an error is "readable" before the connect has come about

    def handle_close(self) -> None:
        self.close()
        self._attempt.fail(ClientDisconnected('the event loop ends'))


class _Registration:
    """What is said on a new channel, up to the answer to ``register``."""

    def __init__(self, attempt: Attempt, loop: Loop, transport: Transport, options: Options) -> None:
        # Without an I/O thread nobody turns the loop, and its timers, while a call waits.
        silence_s = None if options.io_thread else options.heartbeat_s
        self.channel = ClientChannel(loop, transport, ClientCore(), self, silence_s)
        self._attempt = attempt
        self._options = options
        self._read_only = options.read_only
        self._early: list[tuple[bytes, list[bytes]]] = []

    def handle_agreed(self, protocol: str) -> None:
        """Called by the channel: both speak `protocol`."""
        self._attempt.move(AttemptState.REGISTERING)
        self.channel.send_async(self.channel.core.send_hello())
        self._register()

    def _register(self) -> None:
        self.channel.call_async('register', (self._options.storage, self._read_only), self._registered)

    def _registered(self, call: PendingCall) -> None:
        if isinstance(call.error, ReadOnlyError) and self._options.read_only_fallback and not self._read_only:
            self._read_only = True
            self._register()
        elif call.error is not None:
            self._attempt.fail(call.error)
        elif not is_tid(call.value):
            self._attempt.fail(
                UnrecognizedResult('the server answered register with something that is no tid'))
        else:
            self.channel.core.registered()
            self._attempt.registered(
                Registered(self.channel, self._attempt.target, self._read_only, call.value, self._early))

    def handle_notice(self, name: str, args: tuple[Any, ...]) -> None:
        """Called by the channel: the server calls one of a client's methods."""
        if name == 'invalidateTransaction' and len(self._early) < MAX_EARLY:
            self._early.append(check_invalidation(args))
        elif name != 'info':  # that will be asked for
            raise ProtocolError(f'the server calls {name!r} before it answers register')

    def handle_silence(self) -> None:
        """Called by the channel: nobody waits for a reply yet."""

    def handle_lost(self, error: Exception) -> None:
        """Called by the channel: the connection has gone."""
        # A server that has no room says nothing, nor does a proxy with no server behind it.
        if (self._attempt.state is AttemptState.GREETING and isinstance(error, ConnectionResetError)
                and self.channel.transport.established):
            error = ConnectionResetError(f'{error} before it said anything: perhaps it has no room for more '
                                         f'connections, or is no ZEO server; look at its log')
        self._attempt.failed(error)


class Attempt:
    """One place that is being tried."""

    def __init__(self, loop: Loop, target: Target, options: Options, owner: AttemptOwner) -> None:
        self.target = target
        self.state = AttemptState.CONNECTING
        self._loop = loop
        self._options = options
        self._owner = owner
        self._stage: _Connector | _Registration | None = None  # who would be given up
        self._deadline = loop.call_later(CONNECT_TIMEOUT_S, self._too_slow)

    def __repr__(self) -> str:
        return f'<Attempt {self.target} {self.state.name}>'

    def move(self, state: AttemptState) -> None:
        """The one function that changes the state."""
        if state not in TABLE[self.state]:
            raise ProtocolError(f'{self!r} cannot become {state.name}')
        self.state = state

    def connect(self) -> None:
        """Start; the owner will be told what comes of it."""
        sock = None
        try:
            sock = self._loop.runtime.socket(self.target.endpoint.family)
            error = sock.connect_ex(self.target.endpoint.sockaddr)
        except (OSError, ValueError) as failure:  # a path may be too long, or no text
            if sock is not None:
                sock.close()
            self.fail(failure)
            return
        if not error:
            self.connected(sock)
        elif error in IN_PROGRESS:
            self._stage = connector = _Connector(self._loop, sock, self)
            connector.open(WRITE)
        else:
            sock.close()
            self.fail(_os_error(error))

    def connected(self, sock: Socket) -> None:
        """The connect has come about, well or not."""
        self._stage = None
        runtime, options = self._loop.runtime, self._options
        error = runtime.connect_error(sock)
        if error:
            sock.close()
            self.fail(_os_error(error))
            return
        try:
            if options.ssl is None:
                transport = Transport(sock, runtime)
            else:
                transport = TLSTransport(
                    sock, runtime, options.ssl, server_side=False,
                    server_hostname=options.ssl_server_hostname or self.target.host)
        except (OSError, ValueError) as failure:
            sock.close()
            self.fail(failure)
            return
        self.move(AttemptState.GREETING)
        self._stage = registration = _Registration(self, self._loop, transport, options)
        registration.channel.start()

    def registered(self, registered: Registered) -> None:
        """Called by the registration: it has come about."""
        self.move(AttemptState.REGISTERED)
        self._deadline.cancel()
        self._stage = None
        self._owner.attempt_registered(self, registered)

    def fail(self, error: BaseException) -> None:
        """Give it up because of `error`; nothing if it is over."""
        if not isinstance(error, Exception):
            error = ClientDisconnected(repr(error))
        stage = self._stage
        if isinstance(stage, _Registration):
            stage.channel.abort(error)
            return
        if stage is not None:
            stage.close()
        self.failed(error)

    def failed(self, error: Exception) -> None:
        """The attempt has come to nothing."""
        # Every step may be done again, if a signal's exception ends this.
        if self.state not in (AttemptState.REGISTERED, AttemptState.FAILED):
            self._deadline.cancel()
            self._owner.attempt_failed(self, error)
            self.move(AttemptState.FAILED)

    @property
    def doing(self) -> str:
        """What is waited for, in words for a complaint."""
        stage = self._stage
        if not isinstance(stage, _Registration):
            return 'no answer to the attempt to connect'
        if self.state is AttemptState.REGISTERING:
            return 'connected, but still registering'
        if not stage.channel.transport.established:
            return 'connected, but the TLS handshake does not end; does a server with TLS listen there?'
        return 'connected, but it says nothing; perhaps it expects TLS, is no ZEO server, or hangs'

    def _too_slow(self) -> None:
        self.fail(TimeoutError(f'the server is too slow: {self.doing}'))


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
