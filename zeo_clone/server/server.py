"""The storage server: listens, makes a session of each connection, owns loop, storages and worker
threads.

One loop in one thread does everything but slow calls.  `stop`, `close`, `server_status` and `ruok` may
be called in any thread; everything else happens in the loop's.
"""
from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ZODB.event

from zeo_clone.addresses import Address, parse_address
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import REAL, Runtime, Socket
from zeo_clone.loop.throttle import Throttle
from zeo_clone.loop.tls import TLSTransport
from zeo_clone.loop.transport import Transport
from zeo_clone.server.alarm import Alarm
from zeo_clone.server.alone import ServedAlone
from zeo_clone.server.aside import ServedAside
from zeo_clone.server.backend.abilities import is_quick
from zeo_clone.server.backend.aside.relay import is_relayed
from zeo_clone.server.backend.database.backend import Tuning
from zeo_clone.server.backend.database.kinds import is_alone, is_database
from zeo_clone.server.backend.resolvable import Resolvable
from zeo_clone.server.backend.workers import Workers
from zeo_clone.server.clients.heartbeat import INTERVAL_S, Heartbeat
from zeo_clone.server.clients.limits import (
    LEAST_MEMORY,
    LEAST_OUTPUT,
    MAX_CONNECTIONS,
    check_least,
    find_limits,
)
from zeo_clone.server.clients.listen import open_listeners, origin, remove_unix_socket, warn_if_open
from zeo_clone.server.clients.operator import Wish
from zeo_clone.server.clients.operator import find as find_client
from zeo_clone.server.clients.session import Session
from zeo_clone.server.clients.strangers import Strangers
from zeo_clone.server.distant import ServedDatabase
from zeo_clone.server.relay import ServedRelay
from zeo_clone.server.served import ServedStorage
from zeo_clone.steps import take_steps
from zeo_clone.version import __version__
from zeo_clone.zrpc.channel.memory import Memory
from zeo_clone.zrpc.channel.server import OUTPUT_LIMIT, ServerChannel
from zeo_clone.zrpc.connection import ServerCore
from zeo_clone.zrpc.frames import DEFAULT_LIMIT

log = logging.getLogger(__name__)

#: A holder of the commit lock may take so long, in seconds, if nothing else is said (L1).
DEFAULT_TRANSACTION_TIMEOUT_S = 30.0
#: A connection that has not registered after so many seconds is dropped (N6).
HANDSHAKE_TIMEOUT_S = 10.0
#: When too much waits for all clients together, connections are closed until it is this part of what may.
RELIEVED = 15 / 16
#: Threads for slow calls of all clients together, and for packs (S5b).
WORKER_THREADS = 4
#: At the end commits that wait for the disk have so long to get there, in seconds.
LAST_SYNC_S = 5.0
PACK_THREADS = 2
#: Threads that wait for the disk, for all clients: a disk syncs several files at once faster than one by one.
SYNC_THREADS = 4


#: Names of arguments that only databases need, as in zeo.conf.
DATABASE_KEYS = {'poll_interval_s': 'poll-interval', 'read_connections': 'read-connections',
                 'commit_connections': 'commit-connections',
                 'server_cache_size': 'server-cache-size', 'patience_s': 'database-patience'}


def _kinds(storages: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Callable[..., ServedStorage]]:
    """What serves each storage; `given` concerns databases.  Raises ValueError."""
    chosen = {key: value for key, value in given.items() if value is not None}
    databases = [name for name, storage in storages.items() if is_database(storage)]
    if chosen and not databases:
        keys = ', '.join(DATABASE_KEYS[key] for key in chosen)
        raise ValueError(f'{keys}: for databases only, and no storage here is one (RelStorage on '
                         f'PostgreSQL); remove it')
    tuning = Tuning(**chosen)

    def kind(storage: Any) -> Callable[..., ServedStorage]:
        if is_database(storage):
            return partial(ServedDatabase, tuning=tuning)
        if is_alone(storage):
            return ServedAlone
        if is_relayed(storage):
            return ServedRelay
        return ServedStorage if is_quick(storage) else ServedAside
    return {name: kind(storage) for name, storage in storages.items()}


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
    resolve conflicts, not the server.  ``resolve``: what else may resolve conflicts on the server:
    ``package.module.Class``, ``package.*``.  Raises ValueError for a bad address, heartbeat or limit,
    or for a storage that must not be served (an IMVCCStorage), OSError if it cannot listen; then the storages
    stay open.  `close` closes them.

    ``frame_limit``: bytes of one message; ``output_limit``: bytes that may wait for a client that does not
    read before it is disconnected; ``memory_limit``: bytes that may wait for all clients, or have come from
    them and are not done with; above it who has most is disconnected first.  None: as `limits` derives it.
    ``max_connections`` is cut to what the process has descriptors for.  ``socket_mode``: permissions of a
    unix socket; ``measure``: how long loads and the steps of commits take, shown in the status;
    ``allow_disconnect``: whoever reaches the port may have clients disconnected, not only processes of the
    same user through a unix socket; ``slow_commit_s`` and ``slow_load_s``: what takes so many seconds is in
    the log, and all is measured; ``resolve``: classes that may resolve conflicts besides the known ones,
    as in ``zeo.conf``.

    For a RelStorage on PostgreSQL only, other servers beside: ``poll_interval_s``: the database is asked for
    what is new so often at least; ``read_connections`` to it, for loads, and ``commit_connections``, for as
    many transactions at the same time; ``server_cache_size``: bytes of current records that are kept;
    ``database_patience_s``: what is asked while the database is away waits.
    """

    def __init__(self, addr: Any, storages: Mapping[str, Any], read_only: bool = False,
                 invalidation_queue_size: int = 100, invalidation_age: float | None = None,
                 transaction_timeout: float | None = None, ssl: Any = None,
                 client_conflict_resolution: bool = False, *, runtime: Runtime = REAL,
                 max_connections: int = MAX_CONNECTIONS,
                 handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
                 heartbeat_s: float = INTERVAL_S, frame_limit: int = DEFAULT_LIMIT,
                 output_limit: int = OUTPUT_LIMIT, memory_limit: int | None = None,
                 socket_mode: int | None = None, measure: bool = False,
                 allow_disconnect: bool = False, resolve: Sequence[str] = (),
                 slow_commit_s: float | None = None, slow_load_s: float | None = None,
                 poll_interval_s: float | None = None, read_connections: int | None = None,
                 commit_connections: int | None = None,
                 server_cache_size: int | None = None, database_patience_s: float | None = None) -> None:
        address = parse_address(addr)
        if heartbeat_s <= 0:  # nothing but work
            raise ValueError(f'heartbeat_s is {heartbeat_s!r}; it must be more than 0')
        check_least(output_limit, LEAST_OUTPUT, f'output_limit={output_limit!r}')
        if memory_limit is not None:
            check_least(memory_limit, LEAST_MEMORY, f'memory_limit={memory_limit!r}')
        storages = dict(storages)
        serve = _kinds(storages, {
            'poll_interval_s': poll_interval_s, 'read_connections': read_connections,
            'commit_connections': commit_connections,
            'server_cache_size': server_cache_size, 'patience_s': database_patience_s})
        resolvable = Resolvable(resolve)
        if not client_conflict_resolution:
            resolvable.import_named()
        if transaction_timeout is None:
            transaction_timeout = DEFAULT_TRANSACTION_TIMEOUT_S
        self.runtime = runtime
        self.storages = storages
        self.read_only = bool(read_only)
        #: By which clients know it again at another address of its own (C11).
        self.instance = runtime.randbytes(8).hex()
        self.allow_disconnect = allow_disconnect
        self._ssl = ssl
        self._output_limit = output_limit
        self._sessions: dict[Session, None] = {}
        self._turned_away = 0  # connections that came when there was no room ...
        self._relieved = 0  # ... and that were closed because too much waited
        self._latest: dict[str, float] = {}  # when that was, last
        self._thread: Any = None
        self._close_lock = runtime.lock()  # protects _closed
        self._closed = False
        self._loop = Loop(runtime)
        self.limits = find_limits(runtime, len(self.storages), max_connections, frame_limit, memory_limit)
        self._memory = Memory(self.limits.memory, self._relieve, self._loop.door)
        self._strangers = Strangers(self._loop, handshake_timeout_s)
        try:
            self._listeners, self.addr = open_listeners(self._loop, address, self._connected, socket_mode,
                                                         self._pause_s)
        except BaseException:
            self._loop.close()
            raise
        self.workers = Workers(self._loop, 'zeo-server-worker', WORKER_THREADS)
        self.packers = Workers(self._loop, 'zeo-server-pack', PACK_THREADS)
        self.syncers = Workers(self._loop, 'zeo-server-sync', SYNC_THREADS)
        self._measurers = Workers(self._loop, 'zeo-server-measure', 1)
        try:
            self.served = {
                name: serve[name](self._loop, name, storage, history_size=invalidation_queue_size,
                                  timeout_s=transaction_timeout, history_age_s=invalidation_age,
                                  client_conflict_resolution=client_conflict_resolution, measure=measure,
                                  of_server=self._status, resolvable=resolvable,
                                  slow_commit_s=slow_commit_s, slow_load_s=slow_load_s)
                for name, storage in self.storages.items()}
            self._start_looking(heartbeat_s)
            if ssl is None:
                warn_if_open(self._listeners)
            ZODB.event.notify(Serving(self, self.addr))
        except BaseException:
            self._closed = True
            self._end()
            raise

    def _start_looking(self, heartbeat_s: float) -> None:
        """After the storages, after the clients, for trouble: every now and then from now on."""
        for served in self.served.values():
            served.backend.measure_with(served.backend.workers or self._measurers)
        Heartbeat(self._loop, self._sessions, heartbeat_s).start()
        Alarm(self._loop, self.ruok).start()

    def __repr__(self) -> str:
        state = 'closed' if self._closed else f'{len(self._sessions)} connections'
        return f'<StorageServer at {self.addr!r}: {", ".join(self.storages)}; {state}>'

    @property
    def throttle(self) -> Throttle:
        """For log lines that a client can have repeated."""
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
        if thread is not None and not here:
            thread.join()
        take_steps(f'the end of {self!r}',
                   *[partial(served.close, LAST_SYNC_S) for served in self.served.values()])
        self._end()
        take_steps(f'the end of {self!r}', *[storage.close for storage in self.storages.values()],
                   partial(ZODB.event.notify, Closed(self)))

    def _end(self) -> None:
        """End all that was made here."""
        take_steps(f'the end of {self!r}', self._loop.close,
                   partial(remove_unix_socket, self.runtime, self.addr),
                   self.workers.close, self.packers.close, self.syncers.close,
                   self._measurers.close)

    def server_status(self, storage_id: str = '1') -> dict[str, Any]:
        """Counters and state of a storage.  Raises KeyError if there is no such storage."""
        return self.served[storage_id].status()

    def ruok(self) -> dict[str, dict[str, Any]]:
        """``{storage id: server_status}`` of all storages: what a health check is told."""
        return {name: served.status() for name, served in self.served.items()}

    def _status(self) -> dict[str, Any]:
        """What the status of each storage says of the server as a whole."""
        limits, now = self.limits, self.runtime.monotonic()
        expires = getattr(self._ssl, 'expires', None)  # of a context from a configuration
        return {'version': __version__, 'python': platform.python_version(),
                'latest': {key: round(now - then, 3) for key, then in list(self._latest.items())},
                'handshake_timeouts': self._strangers.timed_out,
                'tls_expires': None if expires is None else round(expires - self.runtime.time(), 3),
                'all_connections': len(self._sessions), 'max_connections': limits.connections,
                'strangers': len(self._strangers), 'max_strangers': limits.strangers,
                'turned_away': self._turned_away, 'memory': self._memory.used, 'memory_limit': limits.memory,
                'memory_closed': self._relieved, 'frame_limit': limits.frame}

    @property
    def frame_limit(self) -> int:
        """The bytes of the largest message that a client may send."""
        return self.limits.frame

    # ---- loop thread ------------------------------------------------------------------------------

    def loop(self) -> None:
        """Serve until `stop` or `close`."""
        self._loop.run()

    def disconnect(self, wish: Wish, by: str) -> str:
        """Disconnect the client that is meant, on behalf of `by`; its name.  Raises `operator.NotDone`."""
        client = find_client(self.served, wish)
        name = client.name
        client.expel(by)
        return name

    def _pause_s(self) -> float:
        """For how many seconds nobody more can be taken: strangers that say nothing keep no health check out,
        and each has some time to say something (S15)."""
        limits = self.limits
        if len(self._sessions) < limits.connections and len(self._strangers) < limits.strangers:
            return 0.0
        return self._strangers.patience_s()

    def _connected(self, sock: Socket, peer: str) -> None:
        if not self._has_room(sock.fileno()):
            self._turned_away += 1
            self._latest['turned_away'] = self.runtime.monotonic()
            self.throttle.report(
                log, logging.WARNING, 'refused', origin(peer),
                '%s: refused: there are %d connections already, %d of them not registered, and room for %d '
                'and %d%s', peer, len(self._sessions), len(self._strangers), self.limits.connections,
                self.limits.strangers, self.limits.excuse(sock.fileno()))
            sock.close()
            return
        core = ServerCore(self.limits.frame, int(self.limits.memory * RELIEVED))
        channel = ServerChannel(self._loop, self._make_transport(sock), core, self._output_limit,
                                self._memory)
        session = Session(self, channel, peer)
        self._sessions[session] = None
        self._strangers.add(session)
        log.debug('%s: connected', peer)
        try:
            channel.start(session)
        except Exception as error:
            channel.handle_error(error)

    def _has_room(self, fd: int) -> bool:
        """For one more connection; a stranger may have to go for it, never anybody else (S13)."""
        room = len(self._sessions) < self.limits.connections and self.limits.admits(fd)
        return room and len(self._strangers) < self.limits.strangers or self._strangers.make_room()

    def _make_transport(self, sock: Socket) -> Transport:
        if self._ssl is None:
            return Transport(sock, self.runtime)
        return TLSTransport(sock, self.runtime, self._ssl, server_side=True)

    def welcome(self, session: Session) -> None:
        """`session` is no stranger any more."""
        self._strangers.discard(session)

    def forget(self, session: Session) -> None:
        """`session` has ended."""
        self._sessions.pop(session, None)
        self._strangers.discard(session)

    def _relieve(self) -> None:
        """More waits than may: close who has most, then the next, until it is enough (S12).  Who only listens
        has nothing."""
        memory = self._memory
        enough = memory.limit * RELIEVED
        for session in sorted(self._sessions, key=lambda session: session.waiting, reverse=True):
            waiting, used = session.waiting, memory.used
            if used <= enough or not waiting:
                break
            self._relieved += 1
            self._latest['memory_closed'] = self.runtime.monotonic()
            more = self.throttle.admits('memory')
            session.disconnect(f'{waiting} bytes wait for it or came from it, the most of all; together '
                               f'they have {used}, and may have {memory.limit} (memory-limit){more or ""}',
                               logging.DEBUG if more is None else logging.WARNING)
