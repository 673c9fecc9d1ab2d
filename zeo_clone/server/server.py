"""The storage server: listens, makes a session of each connection, owns loop, storages and worker
threads.

One loop in one thread does everything but slow calls.  `stop`, `close`, `server_status` and `ruok` may
be called in any thread; everything else happens in the loop's.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ZODB.event

from zeo_clone.addresses import Address, parse_address
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import REAL, Runtime, Socket
from zeo_clone.loop.throttle import Throttle
from zeo_clone.loop.tls import TLSTransport
from zeo_clone.loop.transport import Transport
from zeo_clone.server.heartbeat import INTERVAL_S, Heartbeat
from zeo_clone.server.listen import open_listeners, origin, remove_unix_socket, warn_if_open
from zeo_clone.server.served import ServedStorage
from zeo_clone.server.session import Session
from zeo_clone.server.workers import Workers
from zeo_clone.steps import take_steps
from zeo_clone.zrpc.channel.server import OUTPUT_LIMIT, ServerChannel
from zeo_clone.zrpc.connection import ServerCore
from zeo_clone.zrpc.frames import DEFAULT_LIMIT

log = logging.getLogger(__name__)

#: A holder of the commit lock may take so long, in seconds, if nothing else is said (L1).
DEFAULT_TRANSACTION_TIMEOUT_S = 30.0
#: A connection that has not registered after so many seconds is dropped (N6).
HANDSHAKE_TIMEOUT_S = 10.0
#: When there is no place left, one that has not registered may be thrown out after so many seconds.
STRANGER_GRACE_S = 0.05
#: Connections at a time (N6): descriptors are not without end.
MAX_CONNECTIONS = 10_000
#: Threads for slow calls of all clients together, and for packs (S5b).
WORKER_THREADS = 4
PACK_THREADS = 2
#: Threads that wait for the disk, for all clients: a disk syncs several files at once faster than one by one.
SYNC_THREADS = 4


class Serving:
    """Event: `server` listens at `address` from now on."""

    def __init__(self, server: StorageServer, address: Address) -> None:
        self.server = server
        self.address = address


class Closed:
    """Event: `server` is closed."""

    def __init__(self, server: StorageServer) -> None:
        self.server = server


class StorageServer:
    """Serves `storages`, ``{id: storage}``, at `addr`: a port, ``(host, port)``, text, or a unix path.

    ``invalidation_queue_size``: transactions that are remembered for clients that come back.
    ``invalidation_age``: seconds; for clients that were away for longer than these transactions, but not
    for longer than that, the storage itself is searched.
    ``transaction_timeout``: seconds that a client may hold the commit lock; None: 30, 0: for ever.
    ``ssl``: an ``ssl.SSLContext``; connections are encrypted.  ``client_conflict_resolution``: clients
    resolve conflicts, not the server.  Raises ValueError for a bad address, OSError if it cannot listen
    there; then the storages stay open.  `close` closes them.

    ``frame_limit``: bytes of one message; ``output_limit``: bytes that may wait for a client that does not
    read before it is disconnected; ``socket_mode``: permissions of a unix socket; ``measure``: how long
    loads and the steps of commits take, shown in the status.
    """

    def __init__(self, addr: Any, storages: Mapping[str, Any], read_only: bool = False,
                 invalidation_queue_size: int = 100, invalidation_age: float | None = None,
                 transaction_timeout: float | None = None, ssl: Any = None,
                 client_conflict_resolution: bool = False, *, runtime: Runtime = REAL,
                 max_connections: int = MAX_CONNECTIONS,
                 handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
                 heartbeat_s: float = INTERVAL_S, frame_limit: int = DEFAULT_LIMIT,
                 output_limit: int = OUTPUT_LIMIT, socket_mode: int | None = None,
                 measure: bool = False) -> None:
        address = parse_address(addr)
        if transaction_timeout is None:
            transaction_timeout = DEFAULT_TRANSACTION_TIMEOUT_S
        self.runtime = runtime
        self.storages = dict(storages)
        self.read_only = bool(read_only)
        #: By which clients know it again at another address of its own (C11).
        self.instance = runtime.randbytes(8).hex()
        self._ssl = ssl
        self._max_connections = max_connections
        self._handshake_timeout_s = handshake_timeout_s
        self.frame_limit = frame_limit
        self._output_limit = output_limit
        self._sessions: dict[Session, None] = {}
        self._thread: Any = None
        self._close_lock = runtime.lock()  # protects _closed
        self._closed = False
        self._loop = Loop(runtime)
        try:
            self._listeners, self.addr = open_listeners(self._loop, address, self._connected, socket_mode,
                                                         self._pause_s)
        except BaseException:
            self._loop.close()
            raise
        self.workers = Workers(self._loop, 'zeo-server-worker', WORKER_THREADS)
        self.packers = Workers(self._loop, 'zeo-server-pack', PACK_THREADS)
        self.syncers = Workers(self._loop, 'zeo-server-sync', SYNC_THREADS)
        self.served = {
            name: ServedStorage(self._loop, name, storage, history_size=invalidation_queue_size,
                                timeout_s=transaction_timeout, history_age_s=invalidation_age,
                                client_conflict_resolution=client_conflict_resolution, measure=measure)
            for name, storage in self.storages.items()}
        Heartbeat(self._loop, self._sessions, heartbeat_s).start()
        if ssl is None:
            warn_if_open(self._listeners)
        ZODB.event.notify(Serving(self, self.addr))

    def __repr__(self) -> str:
        state = 'closed' if self._closed else f'{len(self._sessions)} connections'
        return f'<StorageServer at {self.addr!r}: {", ".join(self.storages)}; {state}>'

    @property
    def throttle(self) -> Throttle:
        """Of log lines that a client can have repeated."""
        return self._loop.throttle

    # ---- any thread -------------------------------------------------------------------------------

    def start_thread(self) -> None:
        """Run the loop in a daemon thread of its own."""
        self._thread = self.runtime.start_thread(self.loop, f'zeo-server-{self.addr}')

    def stop(self) -> None:
        """Have `loop` return.  Safe in a signal handler."""
        self._loop.stop()

    def call_in_loop(self, function: Callable[[], object]) -> None:
        """Have `function` called in the loop's thread, which it must not keep busy.  Not after `close`."""
        self._loop.door(function)

    def close(self) -> None:
        """Close listeners, sessions, whatever was under way, and the storages.  May be called twice."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._loop.stop()
        thread, here = self._thread, self._loop.in_loop_thread()
        joined = [] if thread is None or here else [thread.join]
        storages = [storage.close for storage in self.storages.values()]
        take_steps('the end of the server', self._loop.close, *joined,
                   partial(remove_unix_socket, self.runtime, self.addr),
                   self.workers.close, self.packers.close, self.syncers.close, *storages,
                   partial(ZODB.event.notify, Closed(self)))

    def server_status(self, storage_id: str = '1') -> dict[str, Any]:
        """Counters and state of a storage.  Raises KeyError if there is no such storage."""
        return self.served[storage_id].status()

    def ruok(self) -> dict[str, dict[str, Any]]:
        """``{storage id: server_status}`` of all storages: what a health check is told."""
        return {name: served.status() for name, served in self.served.items()}

    # ---- loop thread ------------------------------------------------------------------------------

    def loop(self) -> None:
        """Serve until `stop` or `close`."""
        self._loop.run()

    def _oldest_stranger(self) -> Session | None:
        return next((session for session in self._sessions if not session.registered), None)

    def _pause_s(self) -> float:
        """For how many seconds nobody more can be taken: strangers that say nothing keep no health check out,
        and each has some time to say something (S15)."""
        if len(self._sessions) < self._max_connections:
            return 0.0
        stranger = self._oldest_stranger()
        return 0.0 if stranger is None else STRANGER_GRACE_S - stranger.age_s

    def _connected(self, sock: Socket, peer: str) -> None:
        if len(self._sessions) >= self._max_connections:
            stranger = self._oldest_stranger()
            if stranger is not None:
                stranger.make_room()
        if len(self._sessions) >= self._max_connections:
            self.throttle.report(log, logging.WARNING, 'refused', origin(peer),
                                 '%s: refused: there are %d connections already', peer, len(self._sessions))
            sock.close()
            return
        channel = ServerChannel(self._loop, self._make_transport(sock), ServerCore(self.frame_limit),
                                self._output_limit)
        session = Session(self, channel, peer)
        self._sessions[session] = None
        self._loop.call_later(self._handshake_timeout_s, partial(self._check_handshake, session))
        log.debug('%s: connected', peer)
        channel.start(session)

    def _make_transport(self, sock: Socket) -> Transport:
        if self._ssl is None:
            return Transport(sock, self.runtime)
        return TLSTransport(sock, self.runtime, self._ssl, server_side=True)

    def _check_handshake(self, session: Session) -> None:
        if not session.registered and session in self._sessions:
            session.disconnect(f'it did not register within {self._handshake_timeout_s:g} s'
                               f'{session.handshake_hint}')

    def forget(self, session: Session) -> None:
        """`session` has ended."""
        self._sessions.pop(session, None)
